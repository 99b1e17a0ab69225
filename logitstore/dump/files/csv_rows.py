"""Read some columns of CSV files. Every cell is the text that stands there; an empty cell has none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow

from logitstore.dump.files.piece import Piece
from logitstore.dump.files.places import ending_of, opened, reading
from logitstore.dump.files.spelling import Spell

_ROWS, _CHARACTERS = 1000, 1 << 25

_LARGEST_CELL = (1 << 31) - 1


def names(path: Path) -> list[str]:
    """Return the columns of a CSV file. Raises BadInput: it cannot be read."""
    with reading(path), _rows(path) as rows:
        return next(rows, [])


def pieces(path: Path, columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield some columns of a CSV file. Raises BadInput: it cannot be read, or has a column twice."""
    with reading(path), _rows(path) as rows:
        header = next(rows, [])
        present = [name for name in columns if name in header]
        twice = next((name for name in present if header.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"it has more than one column named '{twice}'")
        places = [header.index(name) for name in present]
        values: list[list[str | None]] = []
        characters = 0
        for row in rows:
            values.append([row[place] or None for place in places])
            characters += sum(len(text or "") for text in values[-1])
            if len(values) == _ROWS or characters > _CHARACTERS:
                yield _piece(present, values)
                values, characters = [], 0
        if values:
            yield _piece(present, values)


def _piece(present: list[str], values: list[list[str | None]]) -> Piece:
    columns = {
        name: pyarrow.array([row[place] for row in values], pyarrow.string()) for place, name in enumerate(present)
    }
    return Piece(rows=len(values), columns=columns)


@contextmanager
def _rows(path: Path) -> Iterator[Iterator[list[str]]]:
    """Give the rows of a file, the header first, without blank lines."""
    with io.TextIOWrapper(opened(path), encoding="utf-8-sig", newline="") as text:
        yield _checked(text, "\t" if ending_of(path) == ".tsv" else ",")


def _checked(text: io.TextIOWrapper, separator: str) -> Iterator[list[str]]:
    """Yield rows.

    Raises:
        ValueError: something follows a closing quote, a quote is never closed, a row has fewer cells than the header, or more;
            empty ones beyond it do not count.
    """
    csv.field_size_limit(_LARGEST_CELL)
    # without `strict`, what follows a closing quote would be joined to the cell, and the quotes would be lost
    reader = csv.reader(text, delimiter=separator, strict=True)
    width = None
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"line {line}: {error}. A text with quotes stands in quotes, and its own are doubled"
            ) from error
        if row is None:
            return
        if not row or (len(row) == 1 and row[0].isspace()):
            continue
        width = len(row) if width is None else width
        if any(row[width:]):
            raise ValueError(
                f"line {line}: a row has more cells than the header. A text with separators stands in quotes"
            )
        if len(row) < width:
            raise ValueError(
                f"line {line}: a row has fewer cells than the header. A text with line breaks stands in quotes"
            )
        yield row
