"""Work in several processes: what comes of it is the same, and a process that dies is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from logitstore.errors import BadInput, StorageError
from logitstore.store.checks import processes
from logitstore.store.checks.processes import Checkers
from logitstore.store.checks.run import Extent
from logitstore.store.checks.verify import verified, verify
from tests.parts.working import doubled


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start other processes as soon as one job is done."""
    monkeypatch.setattr(processes, "TRIAL_SECONDS", 0.0)
    monkeypatch.setattr(processes, "WORTH_SECONDS", 0.0)


def crew(
    make: Callable[[], Callable[[int], tuple[int, int]]] = doubled, workers: int = 1
) -> Checkers[int, tuple[int, int]]:
    return Checkers(make, workers, lambda job: f"part {job:05d}")


def test_one_worker_is_this_process() -> None:
    with crew() as one:
        assert list(one.over([1, 2, 3])) == [(2, os.getpid()), (4, os.getpid()), (6, os.getpid())]
        assert list(one.over([])) == []


def test_all_jobs_are_done_by_as_many_processes_as_wanted_and_those_end() -> None:
    with crew(workers=2) as two:
        done = sorted([*two.over(range(40)), *two.over(range(40, 60))])
        members = {process for _, process in done}
    assert [double for double, _ in done] == list(range(0, 120, 2))
    assert len(members) == 3
    assert os.getpid() in members
    for process in members - {os.getpid()}:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_an_error_and_the_death_of_another_process_are_raised_here() -> None:
    with crew(partial(doubled, refused=7), 2) as two, pytest.raises(BadInput, match="seven"):
        list(two.over(range(20)))
    told = r"part 00005: .* ended by SIGKILL: .*Give fewer --workers"
    with crew(partial(doubled, killed=5), 2) as two, pytest.raises(StorageError, match=told):
        list(two.over(range(20)))


def test_a_ctrl_c_of_the_terminal_ends_no_other_process() -> None:
    with crew(partial(doubled, interrupted=9), 2) as two:
        assert sorted(double for double, _ in two.over(range(12))) == list(range(0, 24, 2))


def test_problems_are_the_same_and_in_the_same_order_with_several_processes(tapped_copy: Path) -> None:
    tap = sorted(os.listdir(tapped_copy / "taps"))[0]
    for file in ("parts/00000/samples.arrow", "parts/00002/rows.zarr/ids/c/0/0", f"taps/{tap}/parts/00001/part.json"):
        os.truncate(tapped_copy / file, 1)
    alone = verify(tapped_copy)
    assert len(alone) == 3
    assert verified(tapped_copy, Extent(workers=2)).problems == alone


def test_processes_for_a_cache_in_another_storage_are_refused() -> None:
    with pytest.raises(BadInput, match="--workers 2: one process checks a cache in another storage"):
        verified("mem://anything", Extent(workers=2))
