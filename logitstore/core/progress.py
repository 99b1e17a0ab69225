"""How long work reports on itself: its steps, how long each stage took, and counts in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol


class Stopwatch:
    """Adds up the seconds of named stages, separately for each thread.

    Args:
        settle: called at the end of a stage of the main thread, to wait for a device that still works on it. The threads
            behind it give a device no work, and would wait for that of the main thread.
    """

    def __init__(self, settle: Callable[[], None] | None = None) -> None:
        self.settle = settle
        self.seconds: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Measure the time of the code in the context."""
        began = time.perf_counter()
        try:
            yield
        finally:
            is_main = threading.current_thread() is threading.main_thread()
            if self.settle is not None and is_main:
                self.settle()
            thread = "teacher" if is_main else "behind"
            with self._lock:
                key = (thread, stage)
                self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - began


class _Off(Stopwatch):
    """A stopwatch that measures nothing."""

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        yield


NO_STOPWATCH: Stopwatch = _Off()
"""The stopwatch that measures nothing."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """The progress of a long piece of work.

    Attributes:
        stage: name of the stage, such as "tokenise" or "dump".
        done, total: finished and total work, in the unit of the stage; a total of 0 is not known yet.
        part: number of the part that is being written, if any.
        note: a figure to show, such as the loss; or what is to be read, for a stage that has no units of work.
        is_news: whether the note is new, so that it is worth a line where there is no bar.
    """

    stage: str
    done: int
    total: int
    part: int | None = None
    note: str = ""
    is_news: bool = False


class Progress(Protocol):
    """A function that receives the steps of long work. It must be cheap, and any thread may call it."""

    def __call__(self, step: Step) -> None: ...


def no_progress(step: Step) -> None:
    """Ignore the step; the default for callers that do not show progress."""


def amount(count: int, what: str) -> str:
    """Return a count with the name of what is counted, such as "1 part" and "2,000 parts"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
