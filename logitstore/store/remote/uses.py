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
        self.unit, self._until = unit, time.monotonic() + seconds
        weakref.finalize(self, ended, unit).atexit = False

    def is_old(self) -> bool:
        """Say whether the seconds are over."""
        return time.monotonic() > self._until


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
