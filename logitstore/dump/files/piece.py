"""Some rows of a file, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some neighbouring rows of a file; a column that they do not have is missing."""

    rows: int
    columns: dict[str, pyarrow.Array]


@dataclass(frozen=True, kw_only=True)
class At:
    """A file among those of a data set.

    Attributes:
        file: its number; 0 where the data set has no files.
        before: count of the rows in the files before it.
    """

    file: int = 0
    before: int = 0


Values: TypeAlias = "pyarrow.RecordBatch | dict[str, list[Any]]"
"""The values of some rows by column: of Arrow, or of Python where only the library `datasets` can decode them."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some neighbouring rows of a data set.

    Attributes:
        at: the file of the first of them.
        row: number of the first of them in the data set.
        values: their values.
    """

    at: At
    row: int
    values: Values

    def __len__(self) -> int:
        if isinstance(self.values, dict):
            return len(next(iter(self.values.values()), []))
        return int(self.values.num_rows)

    @property
    def bytes(self) -> int:
        """About how many bytes the values have."""
        if isinstance(self.values, dict):
            return sum(len(str(value)) for column in self.values.values() for value in column)
        return int(self.values.nbytes)

    def __getitem__(self, span: slice) -> Batch:
        start, stop, _ = span.indices(len(self))
        if isinstance(self.values, dict):
            some: Values = {name: column[start:stop] for name, column in self.values.items()}
        else:
            some = self.values.slice(start, stop - start)
        return Batch(at=self.at, row=self.row + start, values=some)
