"""Where the time of a command goes, stage by stage, for those who ask."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up the seconds of named stages, on whichever threads they run.

    Args:
        settle: called at the end of a stage, to wait for a device that is still at work on it.
    """

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self.settle = settle
        self.seconds: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times what happens in the context."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if self.settle is not None:
                self.settle()
            thread = "behind" if threading.current_thread() is not threading.main_thread() else "teacher"
            with self._lock:
                key = (thread, stage)
                self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - began


class _Off(Stopwatch):
    """Times nothing."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        yield


OFF: Stopwatch = _Off()
"""For those who do not ask."""
