"""Find the files of a source, and read some of their columns, a bounded piece at a time: Parquet and Arrow.

A record is a row of a table; the records of all files are numbered one after the other.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from logitstore.core.place import below
from logitstore.core.types import Array
from logitstore.dump.data import files_of
from logitstore.dump.files.places import ending_of
from logitstore.errors import BadInput, LogitstoreError, one_line
from logitstore.text.foreign.other_tables import JsonTable, NpzTable

VALUES = 1 << 22
"""Values of one column that are read at once, about."""

MOST_VALUES = 1 << 28
"""Values of one column that a record may have on the mean: more than a text of a million tokens with 200 bytes a row."""

ARROW_RECORDS = 64
"""Records of an Arrow file that are looked at together; they are mapped."""

_SAVED_STATE = 1 << 24

_SPLIT = re.compile(r"(train|validation|valid|test|dev|eval)-\d+-of-\d+")


def files_in(source: Path, endings: Sequence[str], split: str) -> list[Path]:
    """Return the files of a source whose names end so: itself, those of a glob, or those below a folder.

    Of a folder that the library datasets saved, those of the split; where names begin with those of splits, the split's.
    `data_2`
    stands before `data_10`.

    Raises:
        BadInput: there are none.
    """
    path = source.expanduser()
    if path.is_dir():
        folder = path / split if (path / "dataset_dict.json").is_file() else path
        found = _saved(folder) if (folder / "state.json").is_file() else [*below(folder)]
    else:
        found = [file for file in files_of(str(path)) if file.exists()]
        if not found:
            raise BadInput(f"{source}: there is no such file. Give a file, a glob or a folder.")
    files = [file for file in found if ending_of(file) in endings and file.is_file() and not file.name.startswith(".")]
    if path.is_dir() and any(_SPLIT.match(file.name) for file in files):
        files = [file for file in files if (name := _SPLIT.match(file.name)) is not None and name[1] == split]
    if not files:
        kinds = ", ".join(endings)
        of_split = f" of the split '{split}'" if path.is_dir() else ""
        raise BadInput(f"{source}: there is no file ending in {kinds}{of_split}. Give a file, a glob or a folder.")
    return files if (path / "state.json").is_file() else sorted(files, key=_natural)


def _natural(path: Path) -> list[Any]:
    pieces = re.split(r"(\d{1,18})", str(path))
    return [(int(piece), piece) if place % 2 else piece for place, piece in enumerate(pieces)]


def _saved(folder: Path) -> list[Path]:
    """Return the files that `save_to_disk` wrote into a folder, in their order."""
    try:
        with (folder / "state.json").open("rb") as file:
            state = json.loads(file.read(_SAVED_STATE))
        return [folder / Path(str(each["filename"])).name for each in state["_data_files"]]
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise BadInput(f"{folder}/state.json: it does not name the files of a data set: {one_line(error)}.") from error


class Table(Protocol):
    """Records of one file."""

    @property
    def path(self) -> Path: ...

    @property
    def records(self) -> int: ...

    @property
    def schema(self) -> pa.Schema: ...

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Yield some columns of the records from number `start` of the file on."""
        ...


@dataclass(frozen=True, eq=False)
class ParquetTable:
    """A Parquet file. It is opened for each pass."""

    path: Path

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        with self.path.open("rb") as file:
            return pq.read_metadata(file)

    @cached_property
    def schema(self) -> pa.Schema:
        return self._metadata.schema.to_arrow_schema()

    @property
    def records(self) -> int:
        return int(self._metadata.num_rows)

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Yield batches. The size of a batch follows from the counts that the file states before anything is read."""
        first = 0
        with self.path.open("rb") as source, pq.ParquetFile(source) as file:
            for number in range(self._metadata.num_row_groups):
                group = self._metadata.row_group(number)
                stop = first + group.num_rows
                if stop > start and group.num_rows:
                    size = self._together(group, columns)
                    skip = max(start - first, 0)
                    for batch in file.iter_batches(size, row_groups=[number], columns=list(columns)):
                        if skip < batch.num_rows:
                            yield batch.slice(skip)
                        skip = max(skip - batch.num_rows, 0)
                first = stop

    def _together(self, group: Any, columns: Sequence[str]) -> int:
        """Return how many records of a row group are read together."""
        chunks = [group.column(number) for number in range(group.num_columns)]
        counts = [int(each.num_values) for each in chunks if each.path_in_schema.split(".")[0] in columns]
        most = max(counts, default=1)
        if most < 0 or most > MOST_VALUES * group.num_rows:
            raise BadInput(
                f"{self.path}: a row group of {group.num_rows} records says that it has {most:,} values. That is no text."
            )
        return max(VALUES * int(group.num_rows) // max(most, 1), 1)


@dataclass(frozen=True, eq=False)
class ArrowTable:
    """An Arrow file of either format, mapped."""

    path: Path

    @cached_property
    def _reader(self) -> Any:
        with self.path.open("rb") as file:
            content = pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        try:
            stream = pa.ipc.open_stream(content)
        except (OSError, pa.ArrowInvalid):
            whole = pa.ipc.open_file(content)
            return whole.schema, lambda: map(whole.get_batch, range(whole.num_record_batches))
        return stream.schema, lambda: iter(pa.ipc.open_stream(content))

    @property
    def schema(self) -> pa.Schema:
        return self._reader[0]

    @cached_property
    def records(self) -> int:
        return sum(batch.num_rows for batch in self._reader[1]())

    def batches(self, columns: Sequence[str], start: int) -> Iterator[pa.RecordBatch]:
        """Yield batches; what is mapped is checked before it is looked at."""
        first = 0
        for batch in self._reader[1]():
            stop = first + batch.num_rows
            if stop > start:
                chosen = batch.select(list(columns))
                chosen.validate(full=True)
                for place in range(max(start - first, 0), batch.num_rows, ARROW_RECORDS):
                    yield chosen.slice(place, ARROW_RECORDS)
            first = stop


@dataclass(frozen=True, kw_only=True, eq=False)
class Tables:
    """The records of all files of a source.

    Attributes:
        tables: of its files; all have the same columns.
    """

    tables: Sequence[Table]

    @classmethod
    def of(cls, files: Sequence[Path], watched: Sequence[str] = ()) -> Tables:
        """Open the files.

        Args:
            files: in their order.
            watched: columns that change how the others are read. A file may not have one that the first has not.

        Raises:
            BadInput: one cannot be read, or has no records with the columns of the first one.
        """
        kinds: dict[str, Callable[[Path], Table]] = {
            ".parquet": ParquetTable,
            ".arrow": ArrowTable,
            ".npz": NpzTable,
            **dict.fromkeys((".jsonl", ".json", ".ndjson"), partial(JsonTable, watched=frozenset(watched))),
        }
        tables: list[Table] = []
        for file in files:
            with reading(file):
                table: Table = kinds[ending_of(file)](file)
                missing = set(tables[0].schema.names) - set(table.schema.names) if tables else set()
                late = {*watched} & set(table.schema.names) - set(tables[0].schema.names) if tables else set()
                _ = table.records
            if missing:
                raise BadInput(f"{file}: it lacks the column '{min(missing)}', which {files[0]} has.")
            if late:
                raise BadInput(
                    f"{file}: it has the column '{min(late)}', which {files[0]} lacks. Convert them one by one."
                )
            tables.append(table)
        return cls(tables=tables)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the first file."""
        return self.tables[0].schema

    @property
    def records(self) -> int:
        """Count of records of all files."""
        return sum(table.records for table in self.tables)

    def batches(self, columns: Sequence[str], start: int = 0) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the number of the first record of a batch, and some columns of its records, from record `start` on.

        Raises:
            BadInput: a file cannot be read.
        """
        first = 0
        for table in self.tables:
            if first + table.records > start:
                begin = max(start - first, 0)
                with reading(table.path):
                    for batch in table.batches(columns, begin):
                        yield first + begin, batch
                        begin += batch.num_rows
            first += table.records


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a library raises about a file into a BadInput that names the file; refusals of the system pass."""
    try:
        yield
    except LogitstoreError:
        raise
    except Exception as error:
        # libraries raise many kinds of errors; the message keeps the reason, the cause the traceback
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(f"{path}: cannot be read: {one_line(error).rstrip('.')}. Replace the file.") from error


def lengths_of(column: pa.Array, name: str, first: int) -> Array:
    """Return int64[R], the lengths of the lists of a column. Raises BadInput: it holds no lists, or nulls."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise BadInput(f"the column '{name}' holds {kind}, where lists are needed.")
    if column.null_count:
        raise BadInput(f"record {first} or one behind it has nothing in the column '{name}'.")
    return np.asarray(pc.list_value_length(column).to_numpy(zero_copy_only=False), np.int64)


def flat(column: pa.Array, name: str, first: int, kinds: str = "iu") -> Array:
    """Return the numbers in the lists of a column, one list after the other; of lists of lists those of the inner ones.

    Args:
        column: of records.
        name: of it.
        first: number of its first record.
        kinds: NumPy's letters of the kinds of numbers that it may hold.

    Raises:
        BadInput: it holds something else, or nulls.
    """
    while not pa.types.is_primitive(column.type) and not pa.types.is_null(column.type):
        lengths_of(column, name, first)
        column = column.flatten()
    if column.null_count or pa.types.is_null(column.type):
        if not len(column):
            return np.zeros(0, np.int64)
        raise BadInput(f"record {first} or one behind it has an empty value in the column '{name}'.")
    numbers: Array = column.to_numpy(zero_copy_only=False)
    if numbers.dtype.kind not in kinds:
        wanted = "whole numbers" if kinds == "iu" else "numbers"
        raise BadInput(f"the column '{name}' holds {column.type}, where {wanted} are needed.")
    return numbers


def inner(column: pa.Array, name: str, first: int) -> pa.Array:
    """Return the inner lists of a column of lists of lists, one after the other. Raises BadInput: see `lengths_of`."""
    lengths_of(column, name, first)
    return column.flatten()
