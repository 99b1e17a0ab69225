"""Some columns of data files as one data set, read piece by piece."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow
from datasets.table import table_cast

from logitstore.dump.files import csv_rows, json_rows, plain, tables
from logitstore.dump.files.piece import At, Batch, Piece
from logitstore.dump.files.places import ending_of, packing_of
from logitstore.dump.files.spelling import Spell
from logitstore.errors import BadInput, one_line

LAYOUT = "2"
"""Raise this when the same files give other rows."""

_HEAD = 10 << 20
"""Bytes that are looked through for columns that the first rows do not have."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of data files.

    Attributes:
        schema: gives the columns of a file; None if every value is kept as text, whatever its type.
        names: gives the names of the columns of a file, of which it may read the given count of bytes and one row.
        pieces: gives the rows of a file.
        rows: gives the count of rows of a file without reading them; None if they must be read. Then `pieces` takes the number
            of the first row to give, too.
    """

    schema: Callable[[Path], pyarrow.Schema] | None
    names: Callable[[Path, int], list[str]]
    pieces: Callable[..., Iterator[Piece]]
    rows: Callable[[Path], int] | None = None


def _typed(
    schema: Callable[[Path], pyarrow.Schema], pieces: Callable[..., Iterator[Piece]], rows: Callable[[Path], int]
) -> Kind:
    return Kind(schema=schema, names=lambda path, _: list(schema(path).names), pieces=pieces, rows=rows)


def _texts(names: Callable[[Path], list[str]], pieces: Callable[..., Iterator[Piece]]) -> Kind:
    return Kind(schema=None, names=lambda path, _: names(path), pieces=pieces)


KINDS = {
    "json": Kind(schema=None, names=json_rows.names, pieces=json_rows.pieces),
    "csv": _texts(csv_rows.names, csv_rows.pieces),
    "parquet": _typed(tables.parquet_schema, tables.parquet_pieces, tables.parquet_rows),
    "arrow": _typed(tables.arrow_schema, tables.arrow_pieces, tables.arrow_rows),
    "text": _texts(plain.names, plain.lines),
    "document": _texts(plain.names, plain.whole),
}


class FileColumns:
    """The columns of files of one kind; see `logitstore.dump.files.dataset.Columns`."""

    def __init__(self, kind: str, files: list[Path]) -> None:
        self._name, self._kind = kind, KINDS[kind]
        # a file without a byte has no columns either, but it is a text without words
        self.files = [file.absolute() for file in files if kind == "document" or file.stat().st_size]

    @cached_property
    def names(self) -> list[str]:
        """The columns of the files, as far as their first rows tell. Raises BadInput: a file cannot be read."""
        found: dict[str, None] = {}
        for file in self.files:
            found.update(dict.fromkeys(self._kind.names(file, 0 if found else _HEAD)))
        return list(found)

    def values(self, column: str, spell: Spell) -> Iterator[Any]:
        """Yield the values of a column. Raises BadInput: a file cannot be read, or the column cannot hold a value."""
        for file in self.files:
            for piece in self._kind.pieces(file, {column: spell}):
                yield from piece.columns[column].to_pylist() if column in piece.columns else [None] * piece.rows

    def present(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that rows have: all that are asked for, without values where no file has them."""
        return list(columns)

    def identity(self, checksum: Callable[[Path], str]) -> tuple[Any, ...]:
        """Return what the rows follow from: the contents of the files, in their order, and how these are read."""
        return LAYOUT, self._name, [(ending_of(file), packing_of(file), checksum(file)) for file in self.files]

    def count(self) -> int | None:
        """Return the count of rows, if it is known without reading them. Raises BadInput: a file cannot be read."""
        return None if self._kind.rows is None else sum(map(self._kind.rows, self.files))

    def rows(
        self, columns: Mapping[str, Spell], needed: Collection[str], start: int = 0, at: At | None = None
    ) -> Iterator[Batch]:
        """Yield the rows of all files, one file after the other, with some columns.

        Args:
            columns: the names, and how a value is kept as text where the file gives it no type.
            needed: the columns that every file with rows must have; a file without another column has None in it.
            start: number of the first row.
            at: the file that has it, or one before it.

        Raises:
            BadInput: a file cannot be read, lacks a column, or a column has another type than in the files before.
        """
        at = at or At()
        schema = self._schema(list(columns))
        features = datasets.Features.from_arrow_schema(schema)
        is_coded = any(datasets.features.features.require_decoding(feature) for feature in features.values())
        for number in range(at.file, len(self.files)):
            file, missing, row = self.files[number], set(needed), at.before
            for row, piece in self._pieces(file, columns, at.before, start):
                missing -= set(piece.columns)
                for batch in _table(file, piece, schema).combine_chunks().to_batches() if piece.rows else ():
                    values = features.decode_batch(batch.to_pydict()) if is_coded else batch
                    yield Batch(at=At(file=number, before=at.before), row=row, values=values)
                    row += batch.num_rows
            if row > at.before and missing:
                raise BadInput(
                    f"--data {file}: no column named '{min(missing)}', which is read. "
                    "Leave the file out, or name a column that all files have with --column."
                )
            at = At(file=number + 1, before=row)

    def _pieces(self, file: Path, columns: Mapping[str, Spell], before: int, start: int) -> Iterator[tuple[int, Piece]]:
        """Yield the rows of a file from row `start` of the data on, each piece with the number of its first row in the data.

        Of a file of text the rows before it are read, too, and given as pieces without rows. A file that can be counted without
        reading it is not read up to there.
        """
        if self._kind.rows is not None:
            count = self._kind.rows(file)
            row = min(max(before, start), before + count)
            for piece in self._kind.pieces(file, columns, row - before) if row < before + count else ():
                yield row, piece
                row += piece.rows
            if row > before and row <= start:
                # as if it had been read
                yield row, Piece(rows=0, columns=dict.fromkeys(columns, pyarrow.nulls(0)))
            return
        row = before
        for piece in self._kind.pieces(file, columns):
            skip = min(max(start - row, 0), piece.rows)
            some = {name: array.slice(skip) for name, array in piece.columns.items()}
            yield row + skip, Piece(rows=piece.rows - skip, columns=some)
            row += piece.rows

    def _schema(self, columns: list[str]) -> pyarrow.Schema:
        """Return the types in which all files can give the columns."""
        if self._kind.schema is None:
            return pyarrow.schema([(name, pyarrow.string()) for name in columns])
        types = dict.fromkeys(columns, pyarrow.null())
        schemas = [self._kind.schema(file) for file in self.files]
        for schema in schemas:
            types |= {name: joined(types[name], schema.field(name).type) for name in columns if name in schema.names}
        # what `datasets` itself wrote says more about its columns than their types do
        metadata = next((schema.metadata for schema in schemas if schema.metadata), None)
        features = datasets.Features()
        for name, kind in types.items():
            try:
                features |= datasets.Features.from_arrow_schema(pyarrow.schema([(name, kind)], metadata))
            except (ValueError, NotImplementedError) as error:
                file = next(file for file, schema in zip(self.files, schemas, strict=True) if name in schema.names)
                raise BadInput(
                    f"--data {file}: column '{name}' holds {kind}, which cannot be read ({one_line(error)}). "
                    "Give it another type, or name another column."
                ) from error
        return datasets.Features(features).arrow_schema


def joined(one: pyarrow.DataType, other: pyarrow.DataType) -> pyarrow.DataType:
    """Return a type for the values of two: objects get the keys of both. Where they differ otherwise, the first one stands."""
    types = pyarrow.types
    if types.is_dictionary(other):
        other = other.value_type
    if types.is_null(one):
        return other
    if types.is_struct(one) and types.is_struct(other):
        fields = {field.name: field.type for field in one}
        for field in other:
            fields[field.name] = joined(fields.get(field.name, pyarrow.null()), field.type)
        return pyarrow.struct(list(fields.items()))
    if types.is_list(one) and (types.is_list(other) or types.is_large_list(other)):
        return pyarrow.list_(joined(one.value_type, other.value_type))
    return one


def _table(source: Path, piece: Piece, schema: pyarrow.Schema) -> pyarrow.Table:
    """Return a piece in the types of the schema. Raises BadInput: a value of a column has another type."""
    arrays = []
    for field in schema:
        array = piece.columns.get(field.name)
        if array is None:
            array = pyarrow.nulls(piece.rows, field.type)
        try:
            arrays.append(table_cast(pyarrow.table({field.name: array}), pyarrow.schema([field])).column(0))
        except (ValueError, TypeError, NotImplementedError) as error:
            raise BadInput(
                f"--data {source}: column '{field.name}' holds {array.type}, but {field.type} in the files before it "
                f"({one_line(error)}). Give it one type in all files, or leave files out."
            ) from error
    return pyarrow.table(arrays, schema=schema)
