"""How long work reports on itself: its steps, and how long each stage took."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


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


NO_STOPWATCH: Stopwatch = _Off()
"""For those who do not ask."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """How far a long piece of work has come.

    Attributes:
        stage: what is being done, such as "tokenise" or "dump".
        done, total: in the stage's own unit.
        part: the part being written, where there is one.
        note: a figure worth watching, such as the loss.
    """

    stage: str
    done: int
    total: int
    part: int | None = None
    note: str = ""


class Progress(Protocol):
    """Receives the steps of long work; must be cheap, and may be called from any thread."""

    def __call__(self, step: Step) -> None: ...


def no_progress(step: Step) -> None:
    """The progress of those who do not look."""
