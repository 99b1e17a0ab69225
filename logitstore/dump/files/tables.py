"""Read some columns of Parquet and Arrow files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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


def parquet_pieces(path: Path, columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield some columns of a Parquet file as they are. Raises BadInput: it cannot be read."""
    with reading(path), path.open("rb") as source, pyarrow.parquet.ParquetFile(source) as file:
        present = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(_ROWS, columns=present):
            yield _piece(batch, present)


def arrow_schema(path: Path) -> pyarrow.Schema:
    with reading(path), _batches(path) as (schema, _):
        return schema


def arrow_pieces(path: Path, columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield some columns of an Arrow file, of either format, as they are. Raises BadInput: it cannot be read."""
    with reading(path), _batches(path) as (schema, batches):
        present = [name for name in columns if name in schema.names]
        for batch in batches:
            batch.validate(full=True)
            yield _piece(batch, present)


@contextmanager
def _batches(path: Path) -> Iterator[tuple[pyarrow.Schema, Iterator[pyarrow.RecordBatch]]]:
    with path.open("rb") as file:
        try:
            stream = pyarrow.ipc.open_stream(file)
        except (OSError, pyarrow.ArrowInvalid):
            whole = pyarrow.ipc.open_file(file)
            yield whole.schema, (whole.get_batch(number) for number in range(whole.num_record_batches))
        else:
            yield stream.schema, iter(stream)


def _piece(batch: pyarrow.RecordBatch, present: list[str]) -> Piece:
    columns = {name: _plain(batch.column(name)) for name in present}
    return Piece(rows=batch.num_rows, columns=columns)


def _plain(array: pyarrow.Array) -> pyarrow.Array:
    return array.dictionary_decode() if pyarrow.types.is_dictionary(array.type) else array
