"""By the rules of a cluster, here with processes of this machine: what is lost is replaced, and a bad part stops no other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from logitstore.core.progress import Step
from logitstore.dump.processes.crews import refuse_failed
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.pool import Pool
from logitstore.dump.processes.workers import LocalCrew, Rules, Seat
from logitstore.errors import BadInput, PartsFailed, ProcessDied
from logitstore.store.layout import FAILED_NAME
from tests.parts.processes import notes_of, warm_members
from tests.parts.warm import WarmMember

RULES = Rules(option="--cluster", noun="worker", tries=3, goes_on=True, late=3.0)
JOBS = [PartJob(part, ("answers",)) for part in range(6)]


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[WarmMember]]:
    with warm_members(monkeypatch) as members:
        yield members


def pool_of(folder: Path, fate: str, steps: list[Step], count: int = 2) -> Pool:
    seats = [Seat(name="1 thread", variables={"OMP_NUM_THREADS": "1"})] * count
    return Pool(LocalCrew(seats, RULES), partial(notes_of, folder, fate), steps.append, len(JOBS))


def written(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit())


def notes(steps: list[Step]) -> list[str]:
    return [step.note for step in steps if step.stage == "note"]


def test_a_worker_that_dies_is_replaced_and_its_part_is_written(tmp_path: Path, members: list[WarmMember]) -> None:
    steps: list[Step] = []
    shown: list[int] = []
    with pool_of(tmp_path, "killed once", steps) as pool:
        pool.run([PartJob()])
        assert pool.run(JOBS, lambda rows, parts: shown.append(rows)) == {}
    assert written(tmp_path) == list(range(6))
    (note,) = notes(steps)
    assert "was ended by SIGKILL" in note
    assert note.endswith("while it wrote part 00001; another one takes it over")
    assert len(members) == 3
    assert shown[-1] == 60
    assert None not in [member.poll() for member in members]


def test_all_workers_may_die_with_every_part(tmp_path: Path, members: list[WarmMember]) -> None:
    steps: list[Step] = []
    with pool_of(tmp_path, "each killed once", steps) as pool:
        assert pool.run(JOBS) == {}
    assert written(tmp_path) == list(range(6))
    assert len(notes(steps)) == 6


@pytest.mark.parametrize(
    ("fate", "told"),
    [("killed", "was ended by SIGKILL"), ("bug", "failed while it wrote part 00001: Odd: three is odd")],
)
def test_a_part_at_which_three_fail_is_set_aside_and_the_others_are_written(
    tmp_path: Path, members: list[WarmMember], fate: str, told: str
) -> None:
    steps: list[Step] = []
    with pool_of(tmp_path, fate, steps) as pool:
        failed = pool.run(JOBS)
    assert list(failed) == [1]
    assert told in failed[1]
    assert written(tmp_path) == [0, 2, 3, 4, 5]
    assert len(notes(steps)) == 3
    assert "while it wrote part 00001" in notes(steps)[-1]
    assert notes(steps)[-1].endswith("; it failed 3 times and is set aside")
    with pytest.raises(
        PartsFailed, match=rf"my-cache: 1 part could not be written, all others are there: 00001\. .*{told}"
    ):
        refuse_failed(tmp_path / "my-cache", failed)
    assert json.loads((tmp_path / "my-cache" / FAILED_NAME).read_text())["1"] == failed[1]


def test_where_nothing_is_written_and_parts_fail_the_error_is_told(tmp_path: Path, members: list[WarmMember]) -> None:
    with pytest.raises(RuntimeError, match="three is odd"), pool_of(tmp_path, "each bug", []) as pool:
        pool.run(JOBS)
    assert written(tmp_path) == []
    # three parts, three times each, beside two that were started in the place of the last
    assert len(members) <= 11


def test_what_any_other_would_refuse_too_ends_the_command(tmp_path: Path, members: list[WarmMember]) -> None:
    with pytest.raises(BadInput, match="--data nothing: it is empty"), pool_of(tmp_path, "refuses", []) as pool:
        pool.run(JOBS)
    assert len(members) == 2


def test_workers_that_all_die_while_they_load_end_the_command(tmp_path: Path, members: list[WarmMember]) -> None:
    told = "5 of them were lost one after the other while they loaded the teacher"
    with pytest.raises(ProcessDied, match=told), pool_of(tmp_path, "dies while it loads", []) as pool:
        pool.run(JOBS)
    assert written(tmp_path) == []


def test_a_part_that_takes_too_long_is_written_by_another_and_nobody_waits(
    tmp_path: Path, members: list[WarmMember]
) -> None:
    shown: list[tuple[int, list[int]]] = []
    with pool_of(tmp_path, "is slow once", []) as pool:
        assert pool.run(JOBS, lambda rows, parts: shown.append((rows, parts))) == {}
    assert written(tmp_path) == list(range(6))
    # no row of the two that wrote part 1 is counted twice
    assert [rows for rows, _ in shown] == sorted(rows for rows, _ in shown)
    assert shown[-1][0] == 60
    # the slow one has dropped what it had begun
    assert len((tmp_path / "1").read_text().splitlines()) == 1
    assert None not in [member.poll() for member in members]
