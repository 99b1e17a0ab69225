"""Records of JSON lines and of NumPy's .npz files, as Arrow's batches. Nothing is unpickled.

A record of .npz is a whole file whose tokens have one axis, or one row of all its arrays.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.dump.files.places import opened
from logitstore.errors import BadInput

LONGEST_LINE = 1 << 28
"""Characters of a line of JSON: a text of a million tokens with twenty entries each has about so many."""

LINES = 16
"""Lines that are read together."""

LARGEST_MEMBER = 1 << 34
"""Bytes of an array of .npz, as its header states them before anything is read."""

RECORDS = 64


@dataclass(frozen=True, eq=False)
class JsonTable:
    """A file of JSON lines, compressed or not. Each line is an object.

    Attributes:
        path: of the file.
        watched: columns that change how the others are read: a record may not have one that the first has not.
    """

    path: Path
    watched: frozenset[str] = frozenset()

    @cached_property
    def schema(self) -> pa.Schema:
        """The columns of the first record."""
        first = next(self._rows(0), {})
        return pa.schema([pa.field(name, pa.null()) for name in first])

    @cached_property
    def records(self) -> int:
        with opened(self.path) as file:
            return sum(1 for line in iter(lambda: file.readline(LONGEST_LINE + 1), b"") if line.strip())

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of some lines."""
        rows: list[dict[str, Any]] = []
        known = set(self.schema.names)
        for row in self._rows(start):
            if missing := next((name for name in columns if name not in row), None):
                raise BadInput(f"{self.path}: a record lacks '{missing}', which the first one has.")
            if late := self.watched & row.keys() - known:
                raise BadInput(
                    f"{self.path}: a record has '{min(late)}', which the first one lacks. Give it to all of them."
                )
            rows.append({name: row[name] for name in columns})
            if len(rows) == LINES:
                yield _batch(columns, rows)
                rows = []
        if rows:
            yield _batch(columns, rows)

    def _rows(self, start: int) -> Iterator[dict[str, Any]]:
        number = 0
        with opened(self.path) as file:
            for line in iter(lambda: file.readline(LONGEST_LINE + 1), b""):
                if len(line) > LONGEST_LINE:
                    raise BadInput(f"{self.path}: record {number} is longer than {LONGEST_LINE:,} characters.")
                if not line.strip():
                    continue
                if number >= start:
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise BadInput(f"{self.path}: record {number} is no JSON: {error}.") from error
                    if not isinstance(row, dict):
                        raise BadInput(f"{self.path}: record {number} is no JSON object.")
                    yield row
                number += 1


def _batch(columns: Sequence[str], rows: list[dict[str, Any]]) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([row[name] for row in rows]) for name in columns], list(columns))


@dataclass(frozen=True, eq=False)
class NpzTable:
    """A file of NumPy's arrays."""

    path: Path

    @cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every array, from the headers alone."""
        shapes = {}
        with zipfile.ZipFile(self.path) as whole:
            for info in whole.infolist():
                if info.file_size > LARGEST_MEMBER:
                    raise BadInput(f"{self.path}: {info.filename} says that it has {info.file_size:,} bytes.")
                with whole.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                if dtype.hasobject:
                    raise BadInput(f"{self.path}: {info.filename} holds Python objects, which are never loaded.")
                if int(np.prod(shape, dtype=np.float64)) * dtype.itemsize > info.file_size:
                    raise BadInput(f"{self.path}: {info.filename} is shorter than its shape {shape}.")
                shapes[info.filename.removesuffix(".npy")] = shape
        return shapes

    @cached_property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, pa.null()) for name in self._shapes])

    @cached_property
    def _is_one(self) -> bool:
        """True where the file is one record: the array with the fewest axes has one."""
        return min((len(shape) for shape in self._shapes.values()), default=1) <= 1

    @cached_property
    def records(self) -> int:
        if self._is_one:
            return 1
        counts = {name: shape[0] for name, shape in self._shapes.items()}
        if len(set(counts.values())) > 1:
            raise BadInput(
                f"{self.path}: its arrays have different counts of records: {counts}. Leave out those that are no column."
            )
        return min(counts.values())

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Yield batches of records."""
        with np.load(self.path, allow_pickle=False) as whole:
            arrays = [whole[name][None] if self._is_one else whole[name] for name in columns]
        for first in range(start, self.records, RECORDS):
            some = slice(first, min(first + RECORDS, self.records))
            yield pa.RecordBatch.from_arrays([nested(array[some]) for array in arrays], list(columns))


def nested(values: Array) -> pa.Array:
    """Return an array of two or more axes as Arrow's lists, of lists, ... of its first axis."""
    if values.ndim == 1:
        return pa.array(values)
    count, size = values.shape[:2]
    inside = nested(values.reshape(count * size, *values.shape[2:]))
    return pa.LargeListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int64) * size), inside)
