"""Writers beside each other do no harm."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.attacks import Attacks
from tests.parts.files import traces, tree
from tests.parts.tasks import FEW_KILLS, RARELY, Start, Task, adding

pytestmark = pytest.mark.attack
SIZES = pytest.mark.parametrize("size", ["small", pytest.param("some", marks=pytest.mark.exhaustive)])
"""Three parts, or many."""


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
@SIZES
def test_two_processes_with_disjoint_parts_begin_one_cache_together(
    start: Start, task: Task, small_cache: Path, whole_dump: Callable[[int], Path], tmp_path: Path, size: str
) -> None:
    changes, split = (task.small, ("0,2", "1")) if size == "small" else (task.some, task.split)
    plans = [task.plan(tmp_path / "cache", **changes, parts=parts) for parts in split]
    processes = [start(plan) for plan in plans]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert Cache(tmp_path / "cache").complete
    assert traces(tmp_path / "cache") == []
    assert tree(tmp_path / "cache") == tree(small_cache if size == "small" else whole_dump(FEW_KILLS))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
@SIZES
def test_the_same_command_started_twice_at_once_does_no_harm(
    start: Start, task: Task, small_cache: Path, whole_dump: Callable[[int], Path], tmp_path: Path, size: str
) -> None:
    plan = task.plan(tmp_path / "cache", **(task.small if size == "small" else task.some))
    processes = [start(plan) for _ in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert traces(plan.out) == []
    assert tree(plan.out) == tree(small_cache if size == "small" else whole_dump(FEW_KILLS))


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_what_a_part_holds_does_not_depend_on_the_run_that_wrote_it(
    small_cache: Path, small_plan: Callable[..., DumpSettings], tmp_path: Path
) -> None:
    for out, splits in (
        (tmp_path / "one", ["2", "0", "1"]),
        (tmp_path / "two", ["1", "0,2"]),
        (tmp_path / "3", ["0-2"]),
    ):
        for parts in splits:
            cache = dump(small_plan(out, parts=parts))
            assert set(layout.parse_parts(parts, 3)) <= set(cache.part_numbers)
        assert tree(out) == tree(small_cache)


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_parts_of_another_run_fit_into_a_cache_of_the_same_plan(
    small_copy: Path, small_cache: Path, small_plan: Callable[..., DumpSettings], tmp_path: Path
) -> None:
    other = dump(small_plan(tmp_path / "other", parts="1")).path
    shutil.rmtree(small_copy / "parts" / "00001")
    shutil.copytree(other / "parts" / "00001", small_copy / "parts" / "00001")
    assert verify(small_copy) == []
    assert tree(small_copy) == tree(small_cache)


@pytest.mark.exhaustive
def test_a_dump_that_finishes_while_views_are_added_leaves_them_alone(
    start: Start,
    two_views: Path,
    views_plan: Callable[..., DumpSettings],
    five_views: dict[str, bytes],
    attacks: Attacks,
) -> None:
    """The dump sweeps what killed writers left, and nothing that the other writes."""
    process = start(adding(two_views, "2-4"))
    while process.poll() is None:
        dump(views_plan(two_views, 2))
        attacks.survived("writers side by side")
    assert process.returncode == 0, process.communicate()[1]
    assert traces(two_views) == []
    assert tree(two_views) == five_views
