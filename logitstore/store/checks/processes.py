"""Do many pieces of work in this process, and in others too once that is worth starting them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Generic, TypeVar

from logitstore.errors import StorageError

TRIAL_SECONDS, WORTH_SECONDS = 1.0, 4.0
"""Work is begun in this process. Others are started if, after the first time, at least the second is left."""


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


J = TypeVar("J")


R = TypeVar("R")


@dataclass
class _Failed:
    """An error of another process, with where it came from."""

    error: Exception
    trace: str


@dataclass
class _Member:
    """Another process, and what it works on."""

    process: Any
    connection: Connection
    job: Any = field(default=None)


class Crew(Generic[J, R]):
    """Processes that do the same kind of work. Use it as a context: leaving it ends them, whatever they are doing."""

    def __init__(self, make: Callable[[], Callable[[J], R]], workers: int, called: Callable[[J], str]) -> None:
        """Start nothing.

        Args:
            make: makes what does the work, in each process; it can be pickled.
            workers: the largest count of processes that work at the same time.
            called: names a job, for the message when its process dies.
        """
        self._make, self._workers, self._called = make, workers, called
        self._work: Callable[[J], R] | None = None
        self._members: list[_Member] = []

    def __enter__(self) -> Crew[J, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for each in self._members:
            each.process.terminate()
        for each in self._members:
            each.process.join()
            each.connection.close()
        self._members = []

    def over(self, jobs: Sequence[J]) -> Iterator[R]:
        """Do all jobs. Yield what comes of them as they end, in any order.

        Raises:
            StorageError: a process died at its work.
            Exception: what a job raised.
        """
        left, began = deque(jobs), time.monotonic()
        while left and not self._members and not self._is_worth(time.monotonic() - began, len(jobs), len(left)):
            if self._work is None:
                self._work = self._make()
            yield self._work(left.popleft())
        if left and not self._members:
            self._start(min(self._workers, len(left)))
        yield from self._elsewhere(left)

    def _is_worth(self, seconds: float, all_jobs: int, left: int) -> bool:
        done = all_jobs - left
        is_tried = self._workers > 1 and left > 1 and done > 0 and seconds >= TRIAL_SECONDS
        return is_tried and seconds / done * left >= WORTH_SECONDS

    def _start(self, count: int) -> None:
        # a process of its own kind: a copy of this one would have its locks, and not the threads that hold them
        context = multiprocessing.get_context("spawn")
        with _interrupts_held_back():
            for _ in range(count):
                ours, theirs = context.Pipe()
                process = context.Process(target=_do, args=(self._make, theirs), daemon=True)
                process.start()
                theirs.close()
                self._members.append(_Member(process, ours))

    def _elsewhere(self, left: deque[J]) -> Iterator[R]:
        for each in self._members[: len(left)]:
            self._give(each, left.popleft())
        while busy := {each.connection: each for each in self._members if each.job is not None}:
            for connection in wait(list(busy)):
                member = busy[connection]  # type: ignore[index]  # of the kinds that can be waited for, these are connections
                result = self._result(member)
                if left:
                    self._give(member, left.popleft())
                yield result

    def _give(self, member: _Member, job: J) -> None:
        member.job = job
        try:
            member.connection.send(job)
        except OSError as error:
            raise self._lost(member) from error

    def _result(self, member: _Member) -> R:
        try:
            result = member.connection.recv()
        except (EOFError, OSError) as error:
            raise self._lost(member) from error
        member.job = None
        if isinstance(result, _Failed):
            result.error.add_note(result.trace)
            raise result.error
        made: R = result
        return made

    def _lost(self, member: _Member) -> StorageError:
        member.process.join(10)
        code = member.process.exitcode or 0
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        why = (
            "a file was cut off, or its disk failed, while it was read. Run the same command again"
            if name == "SIGBUS"
            else "most often for want of memory. Give fewer --workers"
        )
        return StorageError(f"{self._called(member.job)}: the process that checked it was ended by {name}: {why}.")


def _do(make: Callable[[], Callable[[J], R]], connection: Connection) -> None:
    """Do jobs until nobody gives any."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C reaches all processes; the first one ends the others
    work: Callable[[J], R] | None = None
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            work = work or make()
            result: Any = work(job)
        except Exception as error:
            result = _Failed(error, "".join(traceback.format_exception(error)))
        try:
            connection.send(result)
        except BrokenPipeError:
            return


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Hold a Ctrl-C back, for this process until the end and for those that it starts for ever."""
    resource_tracker.ensure_running()  # it would let interrupts through again
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
