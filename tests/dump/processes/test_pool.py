"""Parts are handed out one at a time; what happens to one process is told once, and the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.pool import Pool
from logitstore.dump.processes.workers import LocalCrew, Seat
from logitstore.errors import BadInput, ProcessDied
from tests.parts.processes import notes_of, warm_members
from tests.parts.warm import WarmMember

JOBS = [PartJob(part, ("answers",)) for part in range(6)]


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WarmMember]]:
    with warm_members(monkeypatch) as members:
        yield members


def pool_of(folder: Path, fate: str, steps: list[Step], count: int = 2) -> Pool:
    seats = [Seat(name="1 thread", variables={"OMP_NUM_THREADS": "1"})] * count
    return Pool(LocalCrew(seats), partial(notes_of, folder, fate), steps.append, count)


def written(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def test_every_part_is_written_once_and_the_rows_of_all_are_counted(tmp_path: Path, members: list[WarmMember]) -> None:
    steps: list[Step] = []
    shown: list[tuple[int, list[int]]] = []
    with pool_of(tmp_path, "nothing", steps) as pool:
        pool.run([PartJob()])
        pool.run(JOBS, lambda rows, parts: shown.append((rows, parts)))
    assert written(tmp_path) == list(range(6))
    lines = [(tmp_path / str(part)).read_text().split() for part in range(6)]
    assert {names for names, _ in lines} == {"answers"}
    assert len({process for _, process in lines}) <= 2
    assert [rows for rows, _ in shown] == sorted(rows for rows, _ in shown)
    assert shown[-1][0] == 60
    assert all(1 <= len(parts) <= 2 for _, parts in shown)
    # what every process does is told of once
    assert [step.stage for step in steps] in (["load", "begin"], ["begin", "load"], ["begin"])
    # one that still loads is interrupted
    assert {member.poll() for member in members} <= {0, 130}


@pytest.mark.parametrize(
    ("fate", "told"),
    [
        ("killed", "was ended by SIGKILL (the system sends it where memory runs out)"),
        ("exits", "ended with exit code 7, after it said: \x1b[31mcannot go on"),
    ],
)
def test_a_part_with_which_two_processes_die_ends_the_command(
    tmp_path: Path, members: list[WarmMember], fate: str, told: str
) -> None:
    steps: list[Step] = []
    with pytest.raises(ProcessDied) as caught, pool_of(tmp_path, fate, steps, 3) as pool:
        pool.run(JOBS)
    line = str(caught.value)
    assert line.startswith("--processes: 2 processes died one after the other while it wrote part 00001: process ")
    assert told in line
    (note,) = [step.note for step in steps if step.stage == "note"]
    assert f"{told} while it wrote part 00001; another one takes it over" in note
    assert 1 not in written(tmp_path)
    assert None not in [member.poll() for member in members]


def test_the_last_process_that_dies_ends_the_command(tmp_path: Path, members: list[WarmMember]) -> None:
    with pytest.raises(ProcessDied) as caught, pool_of(tmp_path, "killed", [], 1) as pool:
        pool.run(JOBS)
    line = str(caught.value)
    assert line.startswith("--processes: all of them died before the work was done. The last one, process 1 (1 thread)")
    assert "was ended by SIGKILL" in line
    assert written(tmp_path) == [0]


def test_an_error_of_one_process_is_the_error_of_all(tmp_path: Path, members: list[WarmMember]) -> None:
    with pytest.raises(BadInput) as caught, pool_of(tmp_path, "refuses", []) as pool:
        pool.run(JOBS)
    assert str(caught.value) == "--data nothing: it is empty. Give another."
    assert isinstance(caught.value.__cause__, OSError)
    assert None not in [member.poll() for member in members]


def test_a_bug_of_one_process_is_a_traceback_that_says_where(tmp_path: Path, members: list[WarmMember]) -> None:
    with pytest.raises(RuntimeError, match="Odd: three is odd") as caught, pool_of(tmp_path, "bug", []) as pool:
        pool.run(JOBS)
    assert "raise odd_error()" in "".join(caught.value.__notes__)


def test_an_interrupt_ends_processes_in_the_middle_of_a_part(tmp_path: Path, members: list[WarmMember]) -> None:
    """So does the end of the process that started them, which closes the same pipes."""

    def interrupt(rows: int, parts: list[int]) -> None:
        if 1 in parts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pool_of(tmp_path, "waits", []) as pool:
        pool.run(JOBS, interrupt)
    assert 130 in [member.poll() for member in members]
    assert None not in [member.poll() for member in members]
    assert 1 not in written(tmp_path)
