"""Run work on other threads: in order, and with errors raised on the caller's thread.

Whatever the caller's thread waits on here is made of C. A Ctrl-C that comes while Python's own `threading` or
`concurrent.futures` takes a lock leaves the lock held, and a thread that needs it then waits for ever.
"""

from __future__ import annotations

import _thread
import atexit
import time
import weakref
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """A piece of work that a thread does. Its result can be asked for once."""

    def __init__(self, work: Callable[..., T], arguments: tuple[Any, ...]) -> None:
        self._work, self._arguments = work, arguments
        self._answer: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()
        self._is_dropped = False

    def result(self) -> T:
        """Wait until the work is done; return what it gave, or raise its error."""
        value, error = self._answer.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def drop(self) -> None:
        """Leave the work out if it has not begun. Its result must not be asked for."""
        self._is_dropped = True

    def run(self) -> None:
        """Do the work, on a thread of `Workers`."""
        if self._is_dropped:
            return
        try:
            self._answer.put((self._work(*self._arguments), None))
        except BaseException as error:
            self._answer.put((None, error))


class Workers:
    """Threads that take pieces of work in the order in which they are given. They end when nobody holds this any more."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._given: SimpleQueue[Pending[Any] | None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._is_open = True
        _ALL.add(self)
        for _ in range(count):
            _thread.start_new_thread(_serve, (self._given, self._ended))

    def submit(self, work: Callable[..., T], *arguments: Any) -> Pending[T]:
        """Give a piece of work to the threads."""
        pending = Pending(work, arguments)
        self._given.put(pending)
        return pending

    def close(self, drop: bool = False) -> None:
        """Let the threads end after what was given; with `drop`, after what they have begun."""
        if drop:
            try:
                while True:
                    self._given.get_nowait()
            except Empty:
                pass
        if self._is_open or drop:
            self._is_open = False
            for _ in range(self._count):
                self._given.put(None)

    def wait(self) -> None:
        """Wait until the threads have ended, which `close` asks them to do."""
        # what is counted is not taken away, so that a Ctrl-C loses none
        while self._ended.qsize() < self._count:
            time.sleep(0.0005)

    def __del__(self) -> None:
        self.close(drop=True)


def to_the_end(work: Callable[..., T], *arguments: Any) -> T:
    """Do work that a Ctrl-C must not cut off, and return what it gave: the interrupt is raised when the work is over.

    A library with threads of its own goes on writing after an interrupt of the thread that waits for it, perhaps into a folder
    that is cleared away meanwhile.
    """
    workers = Workers(1)
    try:
        return workers.submit(work, *arguments).result()
    finally:
        workers.close()
        workers.wait()


_ALL: weakref.WeakSet[Workers] = weakref.WeakSet()


def _serve(given: SimpleQueue[Pending[Any] | None], ended: SimpleQueue[None]) -> None:
    """Do the work of a queue; hold nothing else, so that the owner of the queue can go."""
    while (pending := given.get()) is not None:
        pending.run()
        del pending
    ended.put(None)


@atexit.register
def _end_all() -> None:
    """Let no thread run on while Python takes itself apart."""
    for workers in list(_ALL):
        workers.close(drop=True)
        workers.wait()


class BackgroundThread:
    """Runs pieces of work on a thread of its own, one after the other.

    At most `depth` pieces wait in the queue, so a slow disk slows the caller down instead of filling the memory. The next
    `submit`, or leaving the context, raises the error of a failed piece; what was given after that piece is left out. Leaving
    the context waits until all work is done.
    """

    def __init__(self, depth: int) -> None:
        self._workers = Workers(1)
        self._places: SimpleQueue[None] = SimpleQueue()
        for _ in range(depth):
            self._places.put(None)
        self._failed: list[BaseException] = []

    def submit(self, work: Callable[..., object], *arguments: Any) -> None:
        """Wait for a place in the queue, then add a piece of work. Raises the error of an earlier piece that failed."""
        self._places.get()
        self._raise()
        self._workers.submit(self._run, work, arguments)

    def __enter__(self) -> BackgroundThread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._workers.close(drop=kind is not None)
        self._workers.wait()
        if kind is None:
            self._raise()

    def _run(self, work: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        try:
            if not self._failed:
                work(*arguments)
        except BaseException as error:
            self._failed.append(error)
        finally:
            self._places.put(None)

    def _raise(self) -> None:
        if self._failed:
            raise self._failed[0]
