"""Have pieces of work done by other processes, in order."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any, Generic, TypeVar

from logitstore.core.background import Pending, Workers

J = TypeVar("J")
R = TypeVar("R")

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from logitstore.core.processes.member import serve; serve()"


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew(Generic[J, R]):
    """Processes that do the same kind of work. Use it as a context: leaving it ends them, whatever they are doing.

    Attributes:
        is_started: whether there are any.
    """

    def __init__(self, died: Callable[[J, str], Exception]) -> None:
        """Start nothing.

        Args:
            died: gives what is raised when a process ends at a job by itself, from the job and how it ended: the name of a
                signal, or an exit code.
        """
        self._died = died
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads: Workers | None = None
        self._makes: dict[bytes, int] = {}

    @property
    def is_started(self) -> bool:
        return self._threads is not None

    def start(self, count: int) -> None:
        """Start so many processes."""
        for _ in range(count):
            self._processes.append(_Process())
            self._idle.put(self._processes[-1])
        self._threads = Workers(count)

    def __enter__(self) -> Crew[J, R]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end()
        if self._threads is not None:
            self._threads.close(drop=True)
            self._threads.wait()

    def in_order(self, make: Callable[[], Callable[[J], R]], jobs: Iterable[J]) -> Iterator[tuple[J, R]]:
        """Yield jobs with what comes of them, in the order of the jobs.

        Args:
            make: makes what does the work, once in each process; it can be pickled.
            jobs: values that can be pickled. Few more are taken than are worked on.

        Raises:
            Exception: what `died` gives, or what a job raised.
        """
        if self._threads is None:
            raise ValueError("no processes were started")
        content = pickle.dumps(make)
        number = self._makes.setdefault(content, len(self._makes))
        waiting: deque[tuple[J, Pending[R]]] = deque()
        for job in jobs:
            waiting.append((job, self._threads.submit(self._ask, number, content, job)))
            # as many wait as are worked on, so that no process does
            if len(waiting) >= 2 * len(self._processes):
                before, pending = waiting.popleft()
                yield before, pending.result()
        while waiting:
            before, pending = waiting.popleft()
            yield before, pending.result()

    def _ask(self, number: int, make: bytes, job: J) -> R:
        # before it is sent, so that what cannot be pickled is told as that
        message = pickle.dumps(job, protocol=5)
        process = self._idle.get()
        try:
            result, error = process.ask(number, make, message)
        except (EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
            raise self._died(job, process.how_it_ended()) from error
        finally:
            self._idle.put(process)
        if error is not None:
            raise error
        made: R = result
        return made


class _Process:
    """One of the processes."""

    def __init__(self) -> None:
        self._known: set[int] = set()
        # no Ctrl-C of the terminal comes to it, and no module of the current folder
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # the processes are the parallelism
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def ask(self, number: int, make: bytes, job: bytes) -> Any:
        """Return what the process answers. Raises EOFError, OSError, ValueError, UnpicklingError: it has ended."""
        given, answers = _open(self._process.stdin), _open(self._process.stdout)
        pickle.dump((number, None if number in self._known else make, job), given, protocol=5)
        given.flush()
        answer = pickle.load(answers)
        self._known.add(number)
        return answer

    def how_it_ended(self) -> str:
        """Wait until the process has ended, and say how."""
        code = self._process.wait()
        return signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                _open(stream).close()


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process has no pipe")
    return stream
