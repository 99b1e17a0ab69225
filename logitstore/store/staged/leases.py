"""Leases: a writer holds what it stages with a lock of the system, so that nobody sweeps it away.

The lock goes with the process that holds it, however that ends. A file system without such locks cannot tell a writer at
work from one that was killed; there what is staged is kept for a day.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

KEPT_SECONDS = 86_400.0
"""How long what is staged is kept where nobody can tell whether its writer lives."""


def take(path: Path) -> int | None:
    """Hold a file or folder that was just made. Return a descriptor, to be closed in the end; None if a sweeper was faster."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # shared, because network file systems give no other lock on what is open for reading
        _lock(descriptor, exclusive=False)
        if os.stat(path).st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except FileNotFoundError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def abandoned(path: Path) -> int | None:
    """Take over what a writer left. Return a descriptor, to be closed when it is removed; None if its writer may still live."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None  # another sweeper was faster, or it is none of ours
    try:
        is_free = _lock(descriptor, exclusive=True)
        if is_free is None:
            is_free = time.time() - os.fstat(descriptor).st_mtime > KEPT_SECONDS
    except BaseException:
        os.close(descriptor)
        raise
    if is_free:
        return descriptor
    os.close(descriptor)
    return None


def is_held(path: Path) -> bool:
    """Say whether a writer that lives holds a file or folder; False where nobody can tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _lock(descriptor, exclusive=True) is False
    finally:
        os.close(descriptor)


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Make other processes that ask for the same folder wait, where the file system has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, exclusive=True, waits=True)
        yield
    finally:
        os.close(descriptor)


def first_in_turn(descriptor: int) -> bool:
    """Hold what is open for writing; return False if another process holds it. Without locks everybody is the first."""
    return _lock(descriptor, exclusive=True) is not False


def wait_for_turn(descriptor: int) -> None:
    """Wait until nobody else holds it any more, however the other process ends."""
    _lock(descriptor, exclusive=True, waits=True)


def _lock(descriptor: int, *, exclusive: bool, waits: bool = False) -> bool | None:
    """Say whether the lock was had; None where the file system has none. A shared one is always waited for."""
    if fcntl is None:
        return None
    try:
        how = fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB) if exclusive else fcntl.LOCK_SH
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
