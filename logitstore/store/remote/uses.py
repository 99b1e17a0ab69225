"""Uses of what was brought to a node that end by themselves, where nothing says when they are over."""

from __future__ import annotations

import _thread
import time
import weakref
from collections.abc import Callable


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
