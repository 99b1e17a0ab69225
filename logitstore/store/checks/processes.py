"""Do many pieces of work in this process, and in others too once that is worth starting them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Generic, TypeVar

from logitstore.core.processes.crew import Crew
from logitstore.errors import StorageError

TRIAL_SECONDS, WORTH_SECONDS = 1.0, 4.0
"""Work is begun in this process. Others are started if, after the first time, at least the second is left."""

J = TypeVar("J")
R = TypeVar("R")


class Checkers(Generic[J, R]):
    """This process and others, for one kind of work. Use it as a context: leaving it ends the others."""

    def __init__(self, make: Callable[[], Callable[[J], R]], workers: int, called: Callable[[J], str]) -> None:
        """Start nothing.

        Args:
            make: makes what does the work, in each process; it can be pickled.
            workers: the largest count of processes that work at the same time.
            called: names a job, for the message when its process dies.
        """
        self._make, self._workers, self._called = make, workers, called
        self._work: Callable[[J], R] | None = None
        self._crew: Crew[J, R] = Crew(self._died)

    def __enter__(self) -> Checkers[J, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, trace)

    def over(self, jobs: Sequence[J]) -> Iterator[R]:
        """Do all jobs. Yield what comes of them, in their order.

        Raises:
            StorageError: a process died at its work.
            Exception: what a job raised.
        """
        left, began = deque(jobs), time.monotonic()
        while left and not self._crew.is_started:
            if self._is_worth(time.monotonic() - began, len(jobs), len(left)):
                self._crew.start(min(self._workers, len(left)))
                break
            if self._work is None:
                self._work = self._make()
            yield self._work(left.popleft())
        if left:
            yield from (result for _, result in self._crew.in_order(self._make, left))

    def _is_worth(self, seconds: float, all_jobs: int, left: int) -> bool:
        done = all_jobs - left
        is_tried = self._workers > 1 and left > 1 and done > 0 and seconds >= TRIAL_SECONDS
        return is_tried and seconds / done * left >= WORTH_SECONDS

    def _died(self, job: J, how: str) -> StorageError:
        why = (
            "a file was cut off, or its disk failed, while it was read. Run the same command again"
            if how == "SIGBUS"
            else "most often for want of memory. Give fewer --workers"
        )
        return StorageError(f"{self._called(job)}: the process that checked it was ended by {how}: {why}.")
