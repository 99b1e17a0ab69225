"""What the data say of documents besides their text: the columns that are asked for, and those in which they are kept."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from logitstore.format.data import GROUP, SCORE


@dataclass(frozen=True, kw_only=True)
class Said:
    """The columns that are read of each document.

    Attributes:
        scores: those with a number, which is kept by the name of its column.
        group: the one that says which documents belong together.
    """

    scores: tuple[str, ...] = ()
    group: str | None = None

    def __bool__(self) -> bool:
        return bool(self.scores) or self.group is not None

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns of the data, each once."""
        return tuple(dict.fromkeys([*self.scores, *([] if self.group is None else [self.group])]))

    @property
    def fields(self) -> list[pa.Field]:
        """The columns in which the values are kept: float64 for a score, text for a group; null where there is none."""
        scores = [pa.field(SCORE + name, pa.float64()) for name in self.scores]
        return scores if self.group is None else [*scores, pa.field(GROUP, pa.string())]


NO_COLUMNS = Said()
