"""Some columns of data files as one data set, kept as an Arrow file that is mapped into memory."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import xxhash
from datasets.table import table_cast

from logitstore.dump.files import csv_rows, json_rows, plain, tables
from logitstore.dump.files.piece import Piece
from logitstore.dump.files.spelling import Spell
from logitstore.errors import BadInput, one_line, storage_errors

_LAYOUT = "2"
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
    """

    schema: Callable[[Path], pyarrow.Schema] | None
    names: Callable[[Path, int], list[str]]
    pieces: Callable[[Path, Mapping[str, Spell]], Iterator[Piece]]


def _typed(schema: Callable[[Path], pyarrow.Schema], pieces: Callable[..., Iterator[Piece]]) -> Kind:
    return Kind(schema=schema, names=lambda path, _: list(schema(path).names), pieces=pieces)


def _texts(names: Callable[[Path], list[str]], pieces: Callable[..., Iterator[Piece]]) -> Kind:
    return Kind(schema=None, names=lambda path, _: names(path), pieces=pieces)


KINDS = {
    "json": Kind(schema=None, names=json_rows.names, pieces=json_rows.pieces),
    "csv": _texts(csv_rows.names, csv_rows.pieces),
    "parquet": _typed(tables.parquet_schema, tables.parquet_pieces),
    "arrow": _typed(tables.arrow_schema, tables.arrow_pieces),
    "text": _texts(plain.names, plain.lines),
    "document": _texts(plain.names, plain.whole),
}


class FileColumns:
    """The columns of files of one kind; see `logitstore.dump.data.Columns`."""

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

    def load(self, columns: Mapping[str, Spell], needed: Collection[str]) -> datasets.Dataset:
        """Return the rows of all files, one file after the other, with some columns.

        They are written into the folder of `datasets` once, and found there again while no file changes.

        Args:
            columns: the names, and how a value is kept as text where the file gives it no type.
            needed: the columns that every file with rows must have; a file without another column has None in it.

        Raises:
            BadInput: a file cannot be read, lacks a column, or a column has another type than in the files before.
            StorageError: the folder cannot be written.
        """
        folder = Path(datasets.config.HF_DATASETS_CACHE) / "logitstore-rows" / self._identity(columns)
        path = folder / "rows.arrow"
        if not path.exists():
            with storage_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self._write(path, self._schema(list(columns)), columns, needed)
        return datasets.Dataset.from_file(str(path))

    def _identity(self, columns: Mapping[str, Spell]) -> str:
        digest = xxhash.xxh3_128(repr((_LAYOUT, self._name, list(columns))).encode("utf-8", "surrogatepass"))
        for file in self.files:
            state = file.stat()
            # the time of change, too: a copy may have been given the other times and the size of the file before it
            known = f"\0{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino} "
            digest.update(known.encode() + os.fsencode(file))
        return digest.hexdigest()

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

    def _write(self, path: Path, schema: pyarrow.Schema, columns: Mapping[str, Spell], needed: Collection[str]) -> None:
        aside = path.with_name(f"{secrets.token_hex(8)}.partial")
        try:
            with aside.open("xb") as file:
                with pyarrow.ipc.new_stream(file, schema) as stream:
                    for source in self.files:
                        self._write_file(source, stream, schema, columns, needed)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def _write_file(
        self,
        source: Path,
        stream: pyarrow.ipc.RecordBatchStreamWriter,
        schema: pyarrow.Schema,
        columns: Mapping[str, Spell],
        needed: Collection[str],
    ) -> None:
        missing, rows = set(needed), 0
        for piece in self._kind.pieces(source, columns):
            missing -= set(piece.columns)
            rows += piece.rows
            stream.write_table(_table(source, piece, schema))
        if rows and missing:
            raise BadInput(
                f"--data {source}: no column named '{min(missing)}', which is read. "
                "Leave the file out, or name a column that all files have with --column."
            )


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
