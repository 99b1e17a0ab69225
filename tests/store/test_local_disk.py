"""The local disk as other file systems are: without hard links, without a sync of folders, without locks; and two writers."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from logitstore.store.local_disk import LocalDisk
from logitstore.store.staged import leases
from tests.parts.files import traces, tree


def refuse(monkeypatch: pytest.MonkeyPatch, name: str, number: int, when: Callable[..., bool]) -> None:
    """Let a function of the system refuse some calls."""
    real = getattr(os, name)

    def call(*arguments: Any, **options: Any) -> Any:
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("link", ["EPERM", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EACCES"])
@pytest.mark.parametrize("sync", ["EINVAL", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_hard_links_and_sync_of_folders_takes_a_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, link: str, sync: str
) -> None:
    refuse(monkeypatch, "link", getattr(errno, link), lambda *paths: True)
    refuse(monkeypatch, "fsync", getattr(errno, sync), lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    disk = LocalDisk(tmp_path / "cache")
    with disk.claim():
        pass
    for turn in range(20):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number: disk.put_first(f"{turn}", bytes([number])), range(8)))  # noqa: B023
        assert won.count(True) == 1
        assert disk.read(f"{turn}") == bytes([won.index(True)])
    staged = disk.stage(0)
    (staged / "part.json").write_bytes(b"record")
    disk.commit(0, staged)
    assert disk.list_parts() == [0]
    assert traces(disk.root) == []


def test_a_dump_onto_such_a_file_system_is_the_same(
    monkeypatch: pytest.MonkeyPatch, small_plan: Callable[..., DumpSettings], small_cache: Path, tmp_path: Path
) -> None:
    refuse(monkeypatch, "link", errno.EPERM, lambda *paths: True)
    refuse(monkeypatch, "fsync", errno.EINVAL, lambda fd: stat.S_ISDIR(os.fstat(fd).st_mode))
    monkeypatch.setattr(leases, "fcntl", None)
    dump(small_plan(tmp_path / "cache", parts="1"))
    dump(small_plan(tmp_path / "cache"))
    assert tree(tmp_path / "cache") == tree(small_cache)
    assert traces(tmp_path / "cache") == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_a_file_that_cannot_be_synced_is_not_called_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int
) -> None:
    refuse(monkeypatch, "fsync", number, lambda fd: not stat.S_ISDIR(os.fstat(fd).st_mode))
    for put in (LocalDisk(tmp_path).put, LocalDisk(tmp_path).put_first):
        with pytest.raises(OSError, match=os.strerror(number)):
            put("a", b"content")
    assert os.listdir(tmp_path) == []


WRITER = """
import os, sys
from pathlib import Path
from logitstore.store.local_disk import LocalDisk, _aside
disk = LocalDisk(sys.argv[1])
staged = disk.stage(7)
(staged / "part.json").write_bytes(b"record")
with _aside(disk.root / "cache.json", b"content") as aside:
    print(staged, aside, flush=True)
    sys.stdin.readline()
    assert aside.exists()
    disk.commit(7, staged)
"""


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_sweep_takes_what_the_killed_left_and_nothing_of_the_living(tmp_path: Path, is_killed: bool) -> None:
    disk = LocalDisk(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        left = [Path(name) for name in writer.stdout.readline().split()]
        assert len(left) == 2
        disk.sweep()
        other = disk.stage(7)
        disk.commit(6, disk.stage(6))
        assert all(path.exists() for path in (*left, other))
        disk.drop(other)
        if is_killed:
            writer.kill()
            writer.wait()
        else:
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.wait() == 0
    assert disk.list_parts() == ([] if is_killed else [7])
    assert bool(traces(tmp_path)) == is_killed
    disk.sweep()
    assert traces(tmp_path) == []


def test_without_locks_what_is_staged_is_kept_for_a_day(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(leases, "fcntl", None)
    disk = LocalDisk(tmp_path)
    young, old = disk.stage(0), disk.stage(1)
    os.utime(old, (0, 0))
    disk.sweep()
    assert young.exists()
    assert not old.exists()


def test_a_part_that_cannot_be_seen_is_not_taken_for_a_missing_one(
    monkeypatch: pytest.MonkeyPatch, small_cache: Path
) -> None:
    disk = LocalDisk(small_cache)
    refuse(monkeypatch, "stat", errno.EIO, lambda path, *_: str(path).endswith("part.json"))
    with pytest.raises(OSError, match="Input/output error"):
        disk.list_parts()
    with pytest.raises(OSError, match="Input/output error"):
        disk.size("parts/00000/part.json")


def test_a_part_that_is_removed_by_half_is_no_part(
    monkeypatch: pytest.MonkeyPatch, small_cache: Path, small_plan: Callable[..., DumpSettings], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(small_cache, tmp_path / "copy"))
    with monkeypatch.context() as broken:
        refuse(broken, "rmdir", errno.EIO, lambda *_: True)
        with pytest.raises(OSError, match="Input/output error"):
            LocalDisk(out).remove("parts/00001")
    assert LocalDisk(out).list_parts() == [0, 2]
    assert verify(out) != [] or dump(small_plan(out)).complete
    assert dump(small_plan(out)).complete
    assert tree(out) == tree(small_cache)
