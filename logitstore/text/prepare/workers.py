"""Tokenise batches in order, in this process or in several others."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any

from logitstore.core.processes.crew import Crew
from logitstore.errors import StorageError
from logitstore.text.prepare.encoded import Encoded, Job, Rows, encoded

WORTH = 4 << 20
"""Bytes of rows from which on other processes are worth their start."""


class Workers:
    """Processes that tokenise. They are started when there is enough to do, and end with the context."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._crew: Crew[Rows, Encoded] = Crew(self._died)

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.__exit__(kind, error, trace)

    def in_order(self, job: Job, batches: Iterable[Rows]) -> Iterator[tuple[Rows, Encoded]]:
        """Yield batches with their tokens, in the order of the batches.

        Raises:
            BadInput: a row that cannot be used.
            StorageError: a process was killed.
        """
        batches = iter(batches)
        if self._count > 1 and not self._crew.is_started and _can_be_sent(job):
            first, size = [], 0
            for rows in batches:
                first.append(rows)
                size += _size(rows)
                if size >= WORTH:
                    self._crew.start(self._count)
                    break
            batches = chain(first, batches)
        if self._crew.is_started and _can_be_sent(job):
            yield from self._crew.in_order(partial(_tokenising, job), batches)
        else:
            yield from ((rows, encoded(job, rows)) for rows in batches)

    def _died(self, _rows: Rows, how: str) -> StorageError:
        return StorageError(
            f"--prepare-workers {self._count}: a process that tokenises ended ({how}), as when memory runs out. Give less "
            "and run the same command again; what is prepared stays."
        )


def _tokenising(job: Job) -> Callable[[Rows], Encoded]:
    return partial(encoded, job)


def _can_be_sent(job: Job) -> bool:
    """Return False where what encodes the rows cannot be sent to another process."""
    with suppress(AttributeError, TypeError, pickle.PicklingError):
        pickle.dumps(job)
        return True
    return False


def _size(rows: Rows) -> int:
    values: Any = rows.values
    if isinstance(values, dict):
        return sum(len(str(value)) for column in values.values() for value in column)
    return int(values.nbytes)
