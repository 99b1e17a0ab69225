"""Read some columns of Parquet, Arrow and CSV files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet

from logitstore.dump.files.piece import Piece
from logitstore.dump.files.places import ending_of, reading
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


def csv_schema(path: Path) -> pyarrow.Schema:
    """Return the columns of a CSV file. Every cell is a text."""
    with reading(path):
        head = pandas.read_csv(path, nrows=0, **_csv_options(path))
    return pyarrow.schema([(str(name), pyarrow.string()) for name in head.columns])


def csv_pieces(path: Path, columns: Mapping[str, Spell]) -> Iterator[Piece]:
    """Yield some columns of a CSV file as the texts that stand in the cells. Raises BadInput: it cannot be read."""
    # with `usecols`, pandas would take rows with too many cells
    with reading(path), pandas.read_csv(path, chunksize=_ROWS, dtype=str, **_csv_options(path)) as chunks:
        while (chunk := _next_of(chunks)) is not None:
            arrays = {
                name: pyarrow.array(chunk[name], pyarrow.string(), from_pandas=True)
                for name in columns
                if name in chunk.columns
            }
            yield Piece(rows=len(chunk), columns=arrays)


def _next_of(chunks: Iterator[Any]) -> Any:
    """Return the next rows, None at the end. Raises ValueError: a row has more cells than the header."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        try:
            return next(chunks, None)
        except pandas.errors.ParserWarning as error:
            raise ValueError("a row has more cells than the header. A text with separators stands in quotes") from error


def _csv_options(path: Path) -> dict[str, Any]:
    separator = "\t" if ending_of(path) == ".tsv" else ","
    # "NA" and "null" are texts, only an empty cell has none; without an index column, pandas does not take the first cell of
    # rows that are longer than the header for a name of the row
    return {"sep": separator, "keep_default_na": False, "na_values": [""], "index_col": False}
