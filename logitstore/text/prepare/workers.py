"""Tokenise batches in order, in this process or in several others."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from queue import SimpleQueue
from types import TracebackType
from typing import IO, Any

from logitstore.core.background import Pending
from logitstore.core.background import Workers as Threads
from logitstore.errors import StorageError
from logitstore.text.prepare.encoded import Encoded, Job, Rows, encoded
from logitstore.text.prepare.worker import packed, unpacked

WORTH = 4 << 20
"""Bytes of rows from which on other processes are worth their start."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from logitstore.text.prepare.worker import serve; serve()"
)


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers:
    """Processes that tokenise. They are started when there is enough to do, and end with the context."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._processes: list[_Process] = []
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self._threads: Threads | None = None
        self._jobs = 0

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.end()
        if self._threads is not None:
            self._threads.close(drop=True)
            self._threads.wait()

    def in_order(self, job: Job, batches: Iterable[Rows]) -> Iterator[tuple[Rows, Encoded]]:
        """Yield batches with their tokens, in the order of the batches.

        Raises:
            BadInput: a row that cannot be used.
            StorageError: a process was killed.
        """
        batches = iter(batches)
        if not self._processes:
            first, size = [], 0
            for rows in batches if self._count > 1 else ():
                first.append(rows)
                size += _size(rows)
                if size >= WORTH:
                    break
            batches = chain(first, batches)
            if size < WORTH or not self._start(job):
                yield from ((rows, encoded(job, rows)) for rows in batches)
                return
        yield from self._elsewhere(job, batches)

    def _start(self, job: Job) -> bool:
        """Start the processes; return False where the job cannot be sent to another process."""
        with suppress(AttributeError, TypeError, pickle.PicklingError):
            pickle.dumps(job)
            self._processes = [_Process(self._count) for _ in range(self._count)]
            self._threads = Threads(self._count)
            for process in self._processes:
                self._idle.put(process)
            return True
        return False

    def _elsewhere(self, job: Job, batches: Iterator[Rows]) -> Iterator[tuple[Rows, Encoded]]:
        self._jobs += 1
        number, content, threads = self._jobs, pickle.dumps(job), self._threads
        if threads is None:
            raise ValueError("no processes were started")
        waiting: deque[tuple[Rows, Pending[Encoded]]] = deque()
        for rows in batches:
            waiting.append((rows, threads.submit(self._ask, number, content, rows)))
            # as many wait as are worked on, so that no process does
            if len(waiting) >= 2 * self._count:
                before, pending = waiting.popleft()
                yield before, pending.result()
        while waiting:
            before, pending = waiting.popleft()
            yield before, pending.result()

    def _ask(self, number: int, job: bytes, rows: Rows) -> Encoded:
        process = self._idle.get()
        try:
            return process.ask(number, job, rows)
        finally:
            self._idle.put(process)


class _Process:
    """One process that tokenises."""

    def __init__(self, count: int) -> None:
        self._count, self._known = count, set[int]()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # the processes are the parallelism
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def ask(self, number: int, job: bytes, rows: Rows) -> Encoded:
        """Return the tokens of some rows. Raises what the process raised; StorageError: it was killed."""
        given, answers = _open(self._process.stdin), _open(self._process.stdout)
        values = rows.values if isinstance(rows.values, dict) else packed(rows.values)
        message = (number, None if number in self._known else job, values, rows.documents_D, rows.numbers_D)
        try:
            pickle.dump(message, given, protocol=5)
            given.flush()
            tokens, notices, error = pickle.load(answers)
        except (EOFError, BrokenPipeError, ValueError, pickle.UnpicklingError) as error:
            raise self._killed() from error
        self._known.add(number)
        if error is not None:
            raise error
        return Encoded(pairs=unpacked(tokens), notices=notices)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                _open(stream).close()

    def _killed(self) -> StorageError:
        code = self._process.wait()
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return StorageError(
            f"--prepare-workers {self._count}: a process that tokenises ended ({how}), as when memory runs out. Give less "
            "and run the same command again; what is prepared stays."
        )


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process has no pipe")
    return stream


def _size(rows: Rows) -> int:
    values: Any = rows.values
    if isinstance(values, dict):
        return sum(len(str(value)) for column in values.values() for value in column)
    return int(values.nbytes)
