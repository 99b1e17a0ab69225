"""The columns of a data set, whoever reads them: what is asked of them, and those that the library `datasets` has read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from logitstore.dump.files.piece import At, Batch
from logitstore.dump.files.spelling import Spell

if TYPE_CHECKING:
    import datasets

_ROWS = 256


class Columns(Protocol):
    """The columns of a data set, before they are read, and the files in which they lie."""

    files: list[Path]

    @property
    def names(self) -> list[str]:
        """The names of all columns."""

    def values(self, column: str, spell: Spell) -> Iterator[Any]:
        """Yield the values of a column, reading no further than asked."""

    def present(self, columns: Iterable[str]) -> list[str]:
        """Return those of some columns that rows have."""

    def identity(self, checksum: Callable[[Path], str]) -> tuple[Any, ...]:
        """Return what all values follow from, given what tells the checksum of a file."""

    def count(self) -> int | None:
        """Return the count of rows; None if they must be read for it."""

    def rows(
        self, columns: Mapping[str, Spell], needed: Collection[str], start: int = 0, at: At | None = None
    ) -> Iterator[Batch]:
        """Yield all rows with some columns, in batches.

        Args:
            columns: the names, and how a value is kept as text where the file gives it no type.
            needed: the columns that every file must have.
            start: number of the first row.
            at: a file that begins at or before it.
        """


class WholeTable:
    """The columns of a data set that `datasets` has read; see `Columns`. The types are those of the data set."""

    def __init__(self, table: datasets.Dataset) -> None:
        self._table = table
        self.files = [Path(file["filename"]) for file in table.cache_files]
        self.names: list[str] = list(table.column_names)

    def values(self, column: str, spell: Spell) -> Iterator[Any]:
        return (row[column] for row in self._table.select_columns([column]))

    def present(self, columns: Iterable[str]) -> list[str]:
        return [name for name in columns if name in self.names]

    def identity(self, checksum: Callable[[Path], str]) -> tuple[Any, ...]:
        return ("datasets", self._table._fingerprint)

    def count(self) -> int:
        return len(self._table)

    def rows(
        self, columns: Mapping[str, Spell], needed: Collection[str], start: int = 0, at: At | None = None
    ) -> Iterator[Batch]:
        table = self._table.select_columns(self.present(columns))
        for row in range(start, len(table), _ROWS):
            yield Batch(at=At(), row=row, values=table[row : row + _ROWS])
