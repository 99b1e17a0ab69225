"""Read some columns of Parquet and Arrow files."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pyarrow
import pyarrow.parquet

from logitstore.dump.files.piece import Piece
from logitstore.dump.files.places import reading
from logitstore.dump.files.spelling import Spell

_ROWS = 1000


def parquet_schema(path: Path) -> pyarrow.Schema:
    # opened here, because Arrow takes only paths that are UTF-8
    with reading(path), path.open("rb") as file:
        return pyarrow.parquet.read_schema(file)


def parquet_rows(path: Path) -> int:
    with reading(path), path.open("rb") as file:
        return int(pyarrow.parquet.read_metadata(file).num_rows)


def parquet_pieces(path: Path, columns: Mapping[str, Spell], start: int = 0) -> Iterator[Piece]:
    """Yield some columns of a Parquet file as they are, from a row on; row groups before it are not read.

    Raises:
        BadInput: it cannot be read.
    """
    with reading(path), path.open("rb") as source, pyarrow.parquet.ParquetFile(source) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        counts = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        ends = list(accumulate(counts))
        groups = [number for number, end in enumerate(ends) if end > start]
        skip = start - (ends[groups[0]] - counts[groups[0]]) if groups else 0
        for batch in file.iter_batches(_ROWS, row_groups=groups, columns=present):
            if skip < batch.num_rows:
                yield _piece(batch.slice(skip), present)
            skip = max(skip - batch.num_rows, 0)


def arrow_schema(path: Path) -> pyarrow.Schema:
    with reading(path), _batches(path) as (schema, _):
        return schema


def arrow_rows(path: Path) -> int:
    with reading(path), _batches(path) as (_, batches):
        return sum(batch.num_rows for batch in batches)


def arrow_pieces(path: Path, columns: Mapping[str, Spell], start: int = 0) -> Iterator[Piece]:
    """Yield some columns of an Arrow file, of either format, as they are, from a row on. Raises BadInput: it cannot be read."""
    with reading(path), _batches(path) as (schema, batches):
        present = [name for name in columns if name in schema.names]
        skip = start
        for batch in batches:
            if skip < batch.num_rows:
                batch.validate(full=True)
                for first in range(skip, batch.num_rows, _ROWS):
                    yield _piece(batch.slice(first, _ROWS), present)
            skip = max(skip - batch.num_rows, 0)


@contextmanager
def _batches(path: Path) -> Iterator[tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]]:
    with path.open("rb") as file:
        # mapped, because one batch may be the whole file; and by Python, because Arrow takes only paths that are UTF-8
        content = pyarrow.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            stream = pyarrow.ipc.open_stream(content)
        except (OSError, pyarrow.ArrowInvalid):
            whole = pyarrow.ipc.open_file(content)
            yield whole.schema, (whole.get_batch(number) for number in range(whole.num_record_batches))
        else:
            yield stream.schema, iter(stream)


def _piece(batch: pyarrow.RecordBatch, present: list[str]) -> Piece:
    columns = {name: _plain(batch.column(name)) for name in present}
    return Piece(rows=batch.num_rows, columns=columns)


def _plain(array: pyarrow.Array) -> pyarrow.Array:
    return array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array
