"""Uses of what was brought to a node that end by themselves, where nothing says when they are over, and how long it is worth
while to wait for the end of others."""

from __future__ import annotations

import _thread
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

PATIENCE_SECONDS = 60.0
"""How long a process waits for others to let go of units before it says that the folder is too small."""

OWN_SECONDS = 10.0
"""How long it waits where only other threads of its own could let go, and none of them does."""

Least = Callable[[Mapping[str, int], int], int]
"""Tells, from the units that this process has in hand and the bytes that it wants, with how many bytes its reading works."""

_TOGETHER = threading.local()


@contextmanager
def together(parts: int) -> Iterator[None]:
    """Say that this thread, and those that work like it, may have so many parts of a cache in hand at one moment."""
    before = parts_together()
    _TOGETHER.parts = parts
    try:
        yield
    finally:
        _TOGETHER.parts = before


def parts_together() -> int:
    """Return how many parts of a cache are in hand at one moment at most, as `together` was told; 1 where it was not."""
    return getattr(_TOGETHER, "parts", 1)


def told_of_no_room(most: int, held: Mapping[str, int], size: int, least: Least | None) -> str:
    """Return what to say where there is no room for so many bytes more, and with which bound there is."""
    own = sum(held.values())
    if own + size > most:
        enough = max(own + size, 0 if least is None else least(held, size))
        return (
            f"--local-cache-size {most:,} bytes is too small: a file or part of {size:,} bytes does not fit beside the "
            f"{own:,} that this process has in use. Give at least {enough:,}; other processes that read at the same time "
            "need as much."
        )
    return (
        f"--local-cache-size {most:,} bytes is too small: all of it is in use, also by other processes, and a file or part of "
        f"{size:,} bytes does not fit. Give more, or read fewer parts at a time (--window-parts)."
    )


class Use:
    """One use of a unit by a thread: it ends when nobody has this object any more, and is old after some seconds."""

    def __init__(self, unit: str, seconds: float, ended: Callable[[str], None]) -> None:
        """Begin the use; `ended` is called with the unit when it is over."""
        self.unit, self._until, self._is_mapped = unit, time.monotonic() + seconds, False
        weakref.finalize(self, ended, unit).atexit = False

    def note_map(self, unit: str) -> None:
        """Note that the thread has mapped a file of a unit, which from now on is held by that map, as long as it is in use."""
        self._is_mapped = self._is_mapped or unit == self.unit

    def may_end(self, is_wished: bool) -> bool:
        """Say whether the seconds are over, or another process waits for room and the use did what it was for."""
        return time.monotonic() > self._until or (is_wished and self._is_mapped)


def call_again(seconds: float, wanted: weakref.WeakMethod[Callable[[], bool]]) -> None:
    """Call a method every so many seconds on a thread of its own, until it returns False or its object is gone."""

    def run() -> None:
        is_on = True
        while is_on:
            time.sleep(seconds)
            call = wanted()
            is_on = call is not None and call()
            del call

    _thread.start_new_thread(run, ())


class Askers:
    """The threads of this process that may have units in hand, and so may let go of them while another one waits."""

    def __init__(self) -> None:
        """Begin with none."""
        self._threads = weakref.WeakSet[threading.Thread]()

    def add(self) -> None:
        """Note that this thread asks for units."""
        self._threads.add(threading.current_thread())

    def leave(self) -> None:
        """Note that this thread has none in hand."""
        self._threads.discard(threading.current_thread())

    def has_others(self) -> bool:
        """Say whether another thread that lives has asked."""
        return any(each.is_alive() and each is not threading.current_thread() for each in list(self._threads))


class Patience:
    """How long one thread waits for room.

    What the process itself has in hand and the new unit may need more than the bound: then no other process can help. That is
    over at once if this thread is the only one, and else if the others let go of nothing for OWN_SECONDS.
    """

    def __init__(self, most: int, askers: Askers) -> None:
        """Begin to wait within a bound of bytes."""
        self._most, self._askers = most, askers
        self._until = time.monotonic() + PATIENCE_SECONDS
        self._held, self._since = -1, time.monotonic()

    def is_over(self, held: int, size: int) -> bool:
        """Say whether to end it.

        Args:
            held: bytes that this process cannot let go of by itself.
            size: bytes that it wants.
        """
        now = time.monotonic()
        if held != self._held:
            self._held, self._since = held, now
        is_own = held + size > self._most
        return now > self._until or (is_own and (not self._askers.has_others() or now > self._since + OWN_SECONDS))
