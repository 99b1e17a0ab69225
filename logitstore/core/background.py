"""Work done behind the caller's back: one thread, in order, with a bounded queue and errors that come to light."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class BackgroundThread:
    """Runs what it is given one after the other on a thread of its own.

    At most `depth` pieces wait, so a slow disk slows the caller down instead of filling the memory. An error of a piece is
    raised by the next `submit`, or on leaving the context, which otherwise waits until everything is done.
    """

    def __init__(self, depth: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="logitstore-writer")
        self._places = threading.BoundedSemaphore(depth)
        self._failed: list[BaseException] = []

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        """Queue a piece of work, waiting for a place in the queue."""
        self._places.acquire()
        self._raise()
        self._executor.submit(work, *arguments).add_done_callback(self._done)

    def __enter__(self) -> BackgroundThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=kind is not None)
        if kind is None:
            self._raise()

    def _done(self, future: Future[object]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            self._failed.append(error)
        self._places.release()

    def _raise(self) -> None:
        if self._failed:
            raise self._failed[0]
