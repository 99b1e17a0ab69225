"""Locks between processes on single bytes of one file, which the system takes away from a process that dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import xxhash

try:
    import fcntl
except ImportError:  # a system without such locks
    fcntl = None  # type: ignore[assignment]

COUNTING = 1 << 62
"""The byte whose lock allows to count what lies in a folder, to add to it and to take away from it."""

WISH = COUNTING + 1
"""The byte that a process locks which waits for room."""

WAIT_SECONDS = 0.02


class ByteLocks:
    """The locks of this process on the bytes of an open file. Threads exclude each other by other means.

    The file must not be opened a second time and closed: that would free all of them.
    """

    def __init__(self, file: int) -> None:
        """Take the descriptor of a file that is open for reading and writing."""
        self._file = file

    def take(self, place: int, *, shared: bool) -> bool:
        """Lock a byte, shared with others or alone; return False if others have it."""
        if fcntl is None:
            return True
        how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB
        try:
            fcntl.lockf(self._file, how, 1, place)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def leave(self, place: int) -> None:
        """Unlock a byte."""
        if fcntl is not None:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    @contextmanager
    def held(self, place: int) -> Iterator[None]:
        """Lock a byte alone, once nobody else has it."""
        while not self.take(place, shared=False):
            time.sleep(WAIT_SECONDS)
        try:
            yield
        finally:
            self.leave(place)


def place_of(unit: str, what: str) -> int:
    """Return the byte that stands for a unit: far behind those that are written."""
    return (xxhash.xxh3_64_intdigest(f"{what}/{unit}".encode()) >> 3) + 4096


class Wish:
    """The wish for room of a process, which the others see: a byte that one of those that wait locks alone.

    So it goes with a process that dies, and needs no clock. Who looks for it shares the lock with others that look, for a
    moment; therefore it is told again and again.
    """

    def __init__(self, locks: ByteLocks) -> None:
        """Wish for nothing."""
        self._locks, self._lock = locks, threading.Lock()
        self._threads, self._is_told = 0, False

    @contextmanager
    def told(self) -> Iterator[Callable[[], None]]:
        """Give what tells the wish of this thread. At the end it is taken back."""
        with self._lock:
            self._threads += 1
        try:
            yield self._tell
        finally:
            with self._lock:
                self._threads -= 1
                if self._is_told and not self._threads:
                    self._locks.leave(WISH)
                    self._is_told = False

    def _tell(self) -> None:
        with self._lock:
            self._is_told = self._is_told or self._locks.take(WISH, shared=False)

    def is_of_another(self) -> bool:
        """Say whether another process waits for room. One that has told a wish itself does not look."""
        with self._lock:
            if self._is_told:
                return False
            if not self._locks.take(WISH, shared=True):
                return True
            self._locks.leave(WISH)
            return False
