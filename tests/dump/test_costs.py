"""What a part costs to write does not grow with the parts that are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from logitstore.dump.parts import ANSWERS, FEW, missing_work
from logitstore.store.local_disk import LocalDisk
from tests.parts.calls import calls_below


def write(disk: LocalDisk, part: int) -> None:
    staged = disk.stage(part)
    (staged / "part.json").write_bytes(b"record")
    disk.commit(part, staged)


def test_commits_list_the_parts_ever_more_rarely(tmp_path: Path) -> None:
    disk = LocalDisk(tmp_path)
    with calls_below(tmp_path) as calls:
        for part in range(40):
            write(disk, part)
    assert [call for call in calls if call == "scandir parts"] == ["scandir parts"] * 6
    assert disk.list_parts() == list(range(40))


def test_what_a_killed_writer_left_goes_with_the_first_commit_of_another(tmp_path: Path) -> None:
    left = tmp_path / "parts/00005.partial-00000000"
    left.mkdir(parents=True)
    write(LocalDisk(tmp_path), 3)
    assert os.listdir(tmp_path / "parts") == ["00003"]


@pytest.mark.parametrize("asked", [1, FEW - 1, FEW])
def test_few_parts_are_looked_for_without_a_list_of_all(tmp_path: Path, asked: int) -> None:
    disk = LocalDisk(tmp_path)
    for part in range(0, 2 * FEW, 3):
        (tmp_path / f"parts/{part:05d}").mkdir(parents=True)
        (tmp_path / f"parts/{part:05d}/part.json").touch()
    with calls_below(tmp_path) as calls:
        missing = missing_work(disk, range(asked), [ANSWERS, "final"])
    assert ("listdir parts" in calls) == (asked == FEW)
    assert missing == {part: [ANSWERS, "final"] if part % 3 else ["final"] for part in range(asked)}
