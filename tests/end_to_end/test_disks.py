"""Full disks and read-only ones end in one line, and leave nothing broken."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.errors import StorageError
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import Problem, repair, verify
from tests.parts.attacks import Attacks
from tests.parts.commands import Refused, flags_of
from tests.parts.files import traces, tree
from tests.parts.tasks import RARELY, Task
from tests.parts.vision import Told

pytestmark = pytest.mark.attack


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_a_full_disk_ends_in_one_line_and_the_same_command_goes_on_when_there_is_space(
    disk: Callable[[str], Path], stopped: Told, task: Task, tmp_path: Path
) -> None:
    plan = task.plan(disk(f"size={task.room}") / "cache")
    line = stopped("dump", *flags_of(plan))
    assert str(plan.out) in line
    assert "no space left" in line
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    assert not Cache(plan.out).complete
    disk("size=16m")
    assert dump(plan).complete
    assert tree(plan.out) == tree(dump(task.plan(tmp_path / "whole")).path)


def open_below(folder: Path) -> list[str]:
    """Files below a folder that this process holds open; mapped ones do not count."""
    names = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            names.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [name for name in names if name.startswith(str(folder))]


def storage_error_of(settings: DumpSettings) -> str | None:
    """What a dump says about the disk, if anything."""
    try:
        dump(settings)
    except StorageError as error:
        return str(error)
    return None


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
@pytest.mark.parametrize("step", [72, pytest.param(8, marks=pytest.mark.exhaustive)])
def test_wherever_the_disk_gets_full_nothing_broken_is_left(
    disk: Callable[[str], Path], small_cache: Path, small_plan: Callable[..., DumpSettings], step: int, attacks: Attacks
) -> None:
    """The disk grows page by page, so that it gets full in the shared files, the metadata, the rows and the records."""
    plan = small_plan(disk("size=4k") / "cache")
    needed = 4 * sum(-(-len(content) // 4096) for content in tree(small_cache).values())
    full = 0
    for size in (4, 12, 20, *range(24, needed, step), 4 * needed):
        disk(f"size={size}k")
        error = storage_error_of(plan)
        if error is not None:
            full += 1
            assert "no space left" in error
            assert str(plan.out) in error
        assert traces(plan.out) == []
        if (plan.out / MANIFEST_NAME).exists():
            assert verify(plan.out) == []
        else:
            assert layout.committed_parts(plan.out) == []
        attacks.survived("full disks", refused=error is not None)
    assert full >= min(160, needed // 2) // step + 2
    assert tree(plan.out) == tree(small_cache)
    assert open_below(plan.out) == []


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_a_disk_without_free_inodes_is_a_full_disk(
    disk: Callable[[str], Path], small_cache: Path, small_plan: Callable[..., DumpSettings]
) -> None:
    inodes = min(45, 3 * len(list(Path(small_cache).rglob("*"))) // 4)
    plan = small_plan(disk(f"size=16m,nr_inodes={inodes}") / "cache")
    with pytest.raises(StorageError, match="no space left"):
        dump(plan)
    assert verify(plan.out) == []
    assert traces(plan.out) == []
    disk("nr_inodes=4096")
    assert dump(plan).complete
    assert tree(plan.out) == tree(small_cache)


# the target is looked at before the task is
@pytest.mark.parametrize("task", ["images"], indirect=True)
def test_a_read_only_target_ends_in_one_line(
    disk: Callable[[str], Path], refused: Refused, small_plan: Callable[..., DumpSettings]
) -> None:
    plan = small_plan(disk("ro,size=16m") / "cache")
    line = refused("dump", *flags_of(plan))
    assert str(plan.out) in line
    assert "read-only" in line


@pytest.mark.parametrize("task", ["images", *RARELY], indirect=True)
def test_a_cache_that_became_read_only_is_read_but_not_written(
    disk: Callable[[str], Path], small_cache: Path, small_plan: Callable[..., DumpSettings]
) -> None:
    plan = small_plan(disk("size=16m") / "cache")
    dump(small_plan(plan.out, parts="0"))
    disk("ro")
    with pytest.raises(StorageError, match="read-only"):
        dump(plan)
    assert verify(plan.out) == []
    problems = [Problem(part=0, file="parts/00000/samples.arrow", what="its checksum does not match")]
    with pytest.raises(StorageError, match="read-only"):
        repair(plan.out, problems)
    disk("rw")
    assert dump(plan).complete
    assert tree(plan.out) == tree(small_cache)
