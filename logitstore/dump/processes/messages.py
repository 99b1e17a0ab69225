"""What a pool and its workers say to each other. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import dataclass

from logitstore.core.progress import Step

END = b""
"""The message after which no other comes."""

GRACE_SECONDS = 10.0
"""How long an interrupted process may take to drop what it has begun."""


@dataclass(frozen=True)
class PartJob:
    """One part that is to be written: a value that can be pickled.

    Attributes:
        part: number of the part; None to begin the cache and its taps, and to write no part.
        names: what is to be written of it, see `logitstore.dump.parts.missing_work`.
    """

    part: int | None = None
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Rows of the part in work that are answered since the last such message."""

    count: int


@dataclass(frozen=True)
class Done:
    """The teacher is loaded, or the job is done."""


@dataclass(frozen=True)
class Failed:
    """The job ended with an error; `cause` is what the error was raised from."""

    error: BaseException
    cause: BaseException | None


Told = Step | Rows | Done | Failed
"""What a process says."""
