"""A converted cache in the hands of every command."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.errors import CacheMismatch
from tests.parts import distillkit
from tests.parts.commands import Command, Refused
from tests.parts.distillkit import QUANTIZED, QUANTIZED_SCHEMA
from tests.text.foreign.conftest import Convert
from tests.text.foreign.test_distillkit import encoded

Said = Callable[..., Any]


@pytest.fixture
def source(said: Said, tmp_path: Path) -> Path:
    records = [encoded(said, QUANTIZED, 12 + seed, seed)[0] for seed in range(12)]
    return distillkit.write(tmp_path / "source", records, QUANTIZED_SCHEMA, QUANTIZED)


def test_a_converted_cache_is_verified_shown_trained_from_judged_and_recoded(
    source: Path,
    teacher: Path,
    small_student: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    made = tmp_path / "made"
    assert command("convert", source, "--tokenizer", teacher, "--out", made, "-k", 10) == 0
    assert command("verify", made) == 0
    capsys.readouterr()
    assert command("inspect", made) == 0
    shown = capsys.readouterr().out
    assert "from distillkit, gold logprobs known: listed" in shown
    assert "cross-entropy not known" in shown
    assert command("inspect", made, "--sample", 0) == 0
    assert command("inspect", made, "--json") == 0
    capsys.readouterr()
    train = ("--epochs", 1, "--batch-size", 4, "--device", "cpu", "--alpha", 0.5)
    assert command("train", made, "--student", small_student, "--out", tmp_path / "student", *train) == 0
    capsys.readouterr()
    assert command("evaluate", made, "--student", tmp_path / "student", "--device", "cpu", "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["teacher_cross_entropy"] is None
    assert all(np.isfinite(figures[name]) for name in ("kl", "kl_lower_bound", "cross_entropy", "agreement"))
    smaller = tmp_path / "smaller"
    assert command("recode", made, "-k", 4, "--logprobs", "levels-8", "--tail", "none", "--out", smaller) == 0
    assert command("verify", smaller) == 0
    assert logitstore.open(smaller).manifest.imported == logitstore.open(made).manifest.imported
    assert (
        command("select", made, "--score", "entropy", "--method", "top", "--ratio", 0.5, "--out", tmp_path / "s") == 0
    )


def test_what_an_imported_cache_cannot_do_is_refused_in_one_line(
    source: Path, teacher: Path, cache: logitstore.Cache, converted: Convert, refused: Refused, tmp_path: Path
) -> None:
    made = converted(source).path
    assert "no nll" in refused(
        "select", made, "--score", "nll", "--method", "top", "--ratio", 0.5, "--out", tmp_path / "s"
    )
    shutil.copytree(made, tmp_path / "twin")
    assert "which a mean needs" in refused("merge", made, tmp_path / "twin", "--out", tmp_path / "mean")
    assert "was imported" in refused("add", made, "--hidden", "1", "--teacher", teacher)
    assert "were imported" in refused("verify", made, "--against-teacher", teacher)
    wrong = ("--format", "distilkit", "--tokenizer", teacher, "--out", tmp_path / "x")
    assert "Did you mean 'distillkit'" in refused("convert", source, *wrong)
    for name, why in (("megatron", "have no tokens"), ("tinyvit", "cannot replay"), ("miniplm", "without the tokens")):
        assert why in refused("convert", source, "--format", name, "--out", tmp_path / "x")


def test_another_source_in_the_same_folder_is_refused(
    source: Path, said: Said, converted: Convert, tmp_path: Path
) -> None:
    converted(source)
    record, _ = encoded(said, QUANTIZED, 9, 77)
    other = distillkit.write(tmp_path / "other", [record], QUANTIZED_SCHEMA, QUANTIZED)
    with pytest.raises(CacheMismatch):
        converted(other)
    with pytest.raises(CacheMismatch, match="k ="):
        converted(source, k=3)
