"""`logitstore prepare` leaves nothing to prepare for the dump."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parts.commands import Command, Refused


def test_a_dump_takes_what_was_prepared(
    teacher: Path, texts: Path, command: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    usual = ("--teacher", teacher, "--data", texts, "--prepared", tmp_path / "prepared", "--max-length", 96)
    assert command("prepare", *usual, "--prepare-workers", 1) == 0
    shown = capsys.readouterr()
    assert "tokenise: 27 of 27 documents" in shown.err
    counts, place = shown.out.splitlines()
    assert counts.startswith("27 documents (2 without a token to predict), ")
    (folder,) = (each for each in (tmp_path / "prepared").iterdir() if each.is_dir())
    assert place.startswith(f"{folder}: ")
    assert command("prepare", *usual, "--json") == 0
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert f"{found['samples']:,} samples of {found['tokens']:,} tokens, {found['rows']:,} rows; " in counts
    assert found["bytes"] == sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file() and file.name != "lock"
    )
    assert command("dump", *usual, "--out", tmp_path / "cache", "--preset", "topk", "--dry-run") == 0
    planned = capsys.readouterr()
    assert f"rows       {found['rows']:,}, " in planned.out
    assert "tokenise" not in again.err + planned.err


def test_images_are_not_prepared(refused: Refused, tmp_path: Path) -> None:
    line = refused(
        "dump",
        *("--task", "image-classification", "--teacher", "t", "--data", tmp_path, "--out", tmp_path / "cache"),
        *("--prepared", tmp_path / "prepared"),
    )
    assert "--prepared: it means nothing to --task image-classification. Leave it out." in line
