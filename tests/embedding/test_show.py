"""What people see of vectors, and of lines about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.format.tap_names import FINAL
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.vectors import vectors_plan


def test_a_sample_is_its_text_and_its_vector(
    vector_cache: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", vector_cache.path, "--sample", 23, "--top", 5, "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    values_D = vector_cache.taps[FINAL].part(2)["values"][3].astype(np.float64)
    assert found["vector"]["first"] == values_D[:5].tolist()
    assert (found["vector"]["channels"], found["vector"]["codec"]) == (32, "float16")
    assert found["vector"]["length"] == pytest.approx(np.sqrt((values_D**2).sum()), rel=1e-12)
    assert found["probability"] is None
    assert command("inspect", vector_cache.path, "--sample", 22, "--tokens", 4) == 0
    shown = " ".join(capsys.readouterr().out.split())
    more = len(vector_cache[22].sample.tokens_T) - 4
    assert f"... {more} more" in shown
    assert "(1)" in shown  # the score of its pair
    assert "first channels" in shown
    assert f"{vector_cache.taps[FINAL].part(2)['values'][2][0]:.4g}" in shown


def test_a_sample_without_its_vector_is_refused(
    vector_cache: logitstore.Cache, refused: Refused, tmp_path: Path
) -> None:
    shutil.copytree(vector_cache.path, tmp_path / "cache")
    shutil.rmtree(tmp_path / "cache/taps/final/parts/00002")
    assert "lacks 1 of its parts" in refused("inspect", tmp_path / "cache", "--sample", 23)


def test_bytes_of_a_row_are_those_of_its_vector(
    judge: Path, pairs: Path, command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = vectors_plan(judge, pairs, tmp_path / "cache", tap_codec="float32")
    assert command("dump", *flags_of(plan)) == 0
    assert "44 rows of 44 samples, 128 B/row, teacher in float32, complete" in capsys.readouterr().out
    assert command("inspect", tmp_path / "cache") == 0
    shown = capsys.readouterr().out
    assert "44, 128 B/row" in shown
    assert "vectors of 32 channels, float32, mapped" in shown
    assert "rows.zarr" not in shown


@pytest.mark.parametrize("option", [("--temperature", 2), ("--alpha", 0.5)])
def test_train_names_the_option_that_has_no_effect_on_vectors(
    vector_cache: logitstore.Cache, judge: Path, refused: Refused, tmp_path: Path, option: tuple[str, float]
) -> None:
    line = refused("train", vector_cache.path, "--student", judge, "--out", tmp_path / "out", *option)
    assert f"{option[0]} {option[1]:.1f}: it has no effect on vectors" in line
    assert "--objective none" not in line
