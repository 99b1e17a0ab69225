"""Run work on a second thread: in order, with a bounded queue, and with errors raised on the caller's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class BackgroundThread:
    """Runs pieces of work on a thread of its own, one after the other.

    At most `depth` pieces wait in the queue, so a slow disk slows the caller down instead of filling the memory. The next
    `submit`, or leaving the context, raises the error of a failed piece. Leaving the context waits until all work is done.
    """

    def __init__(self, depth: int) -> None:
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="logitstore-writer")
        self._places = threading.BoundedSemaphore(depth)
        self._failed: list[BaseException] = []

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        """Wait for a place in the queue, then add a piece of work. Raises the error of an earlier piece that failed."""
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
