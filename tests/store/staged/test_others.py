"""A command that writes what another one on this machine writes at the same time says so, and does no harm."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.store.staged.others import tell_of_others
from logitstore.store.storage import open_storage
from tests.parts.texts import plan_for

CHILD = """
import sys
from logitstore.store.storage import open_storage
storage = open_storage(sys.argv[1])
staged = [storage.stage(int(part)) for part in sys.argv[2:]]
print("staged", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a process that has staged some parts."""
    started: list[subprocess.Popen[str]] = []

    def start(place: object, *parts: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(place), *map(str, parts)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("place", ["cache", "memory://others/cache"])
def test_what_a_living_writer_has_staged_is_told_as_far_as_it_is_asked_for(
    place: str, writer: Callable[..., subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "node"))
    there = place if "://" in place else tmp_path / place
    storage = open_storage(there)
    steps: list[Step] = []
    tell_of_others([storage], range(9), steps.append)
    process = writer(there, 2, 0, *range(4, 9))
    tell_of_others([storage], [1, 3], steps.append)
    assert steps == []
    tell_of_others([storage], [0, 1], steps.append)
    tell_of_others([storage], range(9), steps.append)
    assert [step.stage for step in steps] == ["note", "note"]
    assert "another command writes part 00000 of it now" in steps[0].note
    assert "writes parts 00000, 00002, 00004, 00005, 00006, ... of it now" in steps[1].note
    process.kill()
    process.wait()
    tell_of_others([storage], range(9), steps.append)
    assert len(steps) == 2


def test_a_second_dump_of_a_part_says_that_another_one_writes_it(
    writer: Callable[..., subprocess.Popen[str]], teacher: Path, texts: Path, tmp_path: Path
) -> None:
    notes: list[str] = []

    def keep(step: Step) -> None:
        if step.stage == "note" and "another command" in step.note:
            notes.append(step.note)

    plan = plan_for(teacher, texts, tmp_path / "cache", samples_per_part=2, limit=6, parts="0-1")
    writer(plan.out, 1)
    assert dump(plan, keep).part_numbers == [0, 1]
    assert len(notes) == 1
    assert "part 00001 of it" in notes[0]
    dump(plan_for(teacher, texts, tmp_path / "cache", samples_per_part=2, limit=6, parts="2"), keep)
    assert len(notes) == 1
