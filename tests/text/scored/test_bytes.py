"""Scores and groups are stored as docs/format.md says, to the byte; what breaks its rules is found."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import polars
import pyarrow as pa
import pytest
import xxhash

import logitstore
from logitstore.store.checks.verify import verify
from logitstore.text.scored.columns import wrong
from logitstore.text.stored import SamplesFile
from tests.golden.make_scored import GROUPS, SAID, SCORED, SCORES, samples, write
from tests.parts.commands import Command
from tests.parts.scored import scored_cache, scored_rows


def test_the_golden_samples_are_written_again_to_the_byte(tmp_path: Path) -> None:
    write(tmp_path / "again.arrow")
    assert (tmp_path / "again.arrow").read_bytes() == SCORED.read_bytes()


def test_the_golden_samples_are_read(tmp_path: Path) -> None:
    found = SamplesFile(SCORED, "uint16", 3, said=SAID)
    assert [found.sample(place).scores for place in range(3)] == SCORES
    assert [found.sample(place).group for place in range(3)] == GROUPS
    assert [found.sample(place).key for place in range(3)] == [each.key for each in samples()]


def test_others_read_them_as_plain_columns() -> None:
    table = polars.read_ipc(SCORED)
    assert table["score:reward"].to_list() == [0.1, None, -3.5]
    assert table["group"].to_list() == GROUPS


def test_no_list_and_no_tail_is_told_of_a_cache_that_keeps_none(
    teacher: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    scored_cache(teacher, tmp_path, preset="scores", k=None)
    scored_cache(teacher, tmp_path, "listed")
    shown = []
    for name in ("scored", "listed"):
        assert command("inspect", tmp_path / name) == 0
        shown.append(capsys.readouterr().out)
    for words in ("tail mass", "listed in"):
        assert words not in shown[0]
        assert words in shown[1]


@pytest.mark.parametrize("columns", ["both", "scores", "group"])
def test_the_fingerprint_covers_scores_and_groups(teacher: Path, tmp_path: Path, columns: str) -> None:
    """As docs/format.md spells it out."""
    without = {"scores": {"group_column": None}, "group": {"score_columns": None}}.get(columns, {})
    cache = scored_cache(teacher, tmp_path, preset="scores", k=None, **without)
    digest = xxhash.xxh3_128()
    for row in scored_rows():
        if columns != "group":
            for name in ("reward", "correct"):
                value = row[name]
                digest.update(bytes.fromhex("000000000000f87f") if value is None else struct.pack("<d", float(value)))
        if columns != "scores":
            name = str(row["asked"]).encode()
            digest.update(struct.pack("<I", len(name)) + name)
    scores = cache.manifest.text[1].scores
    assert scores is not None
    assert scores.fingerprint == digest.hexdigest()


def test_a_score_that_is_not_finite_is_found() -> None:
    columns = {"score:reward": pa.array([0.5, None, np.inf]), "score:other": pa.array([1.0, None, 2.0])}
    assert list(wrong(columns)) == ["the column score:reward has a number that is not finite"]


def test_columns_that_the_manifest_does_not_name_are_damage(teacher: Path, tmp_path: Path) -> None:
    scored = scored_cache(teacher, tmp_path, preset="scores", k=None)
    plain = scored_cache(teacher, tmp_path, "plain", preset="scores", k=None, score_columns=None, group_column=None)
    part = "parts/00000/samples.arrow"
    (Path(str(plain.path)) / part).write_bytes((Path(str(scored.path)) / part).read_bytes())
    assert verify(plain.path)
    assert not verify(scored.path)
    assert len(logitstore.open(scored.path)) == len(scored_rows())
