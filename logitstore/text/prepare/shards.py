"""A shard: some neighbouring documents of one source as tokens, in one Arrow file with one record batch, which is mapped."""

from __future__ import annotations

import mmap
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from logitstore.core.record import Count, Record
from logitstore.dump.files.piece import At
from logitstore.store.local_disk import sync_file
from logitstore.text.prepare.encoded import Encoded

TOKENS = 1 << 24
"""A shard ends with the first document with which it has so many tokens. Its arrays are in memory while it is made."""

DOCUMENTS = 1 << 18
"""The most documents of a shard."""

_FACTS, _FOLDER = b"logitstore", b"folder"


class Notice(Record):
    """What the user should know about some documents.

    Attributes:
        text: the notice.
        first: number of the first of them in its source.
        count: how many they are.
    """

    text: str
    first: Count
    count: Count


class ShardInfo(Record):
    """What a shard holds.

    Attributes:
        source: number of the source.
        first: number of its first document in the source.
        documents, pairs: counts.
        file, before: the file of the data with the first document, and the rows in the files before it.
        rows: count of rows of the source up to its limit, where a share of them is taken; else 0.
        is_last: whether it is the last one of its source.
        notices: what the user should know.
        bytes: size of the file; 0 if it is not kept.
    """

    source: Count
    first: Count
    documents: Count
    pairs: Count
    file: Count
    before: Count
    rows: Count
    is_last: bool
    notices: tuple[Notice, ...] = ()
    bytes: Count = 0

    @property
    def at(self) -> At:
        """Where the first document lies."""
        return At(file=self.file, before=self.before)


@dataclass(frozen=True, kw_only=True)
class Made:
    """A shard that was made: what it holds, and its pairs."""

    info: ShardInfo
    pairs: pa.RecordBatch


def name_of(number: int) -> str:
    """Return the file name of a shard."""
    return f"tokens-{number:05d}.arrow"


def write(path: Path, made: Made) -> ShardInfo:
    """Write a shard whole or not at all. Raises OSError: the system refuses."""
    metadata = {_FACTS: made.info.model_dump_json().encode(), _FOLDER: path.parent.name.encode()}
    schema = made.pairs.schema.with_metadata(metadata)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with aside.open("xb") as file, pa.ipc.new_file(file, schema) as stream:
            stream.write_batch(made.pairs.replace_schema_metadata(schema.metadata))
        sync_file(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return made.info.model_copy(update={"bytes": path.stat().st_size})


def mapped(path: Path) -> pa.RecordBatch:
    """Return the pairs of a shard, which lie in the mapped file.

    Raises:
        OSError: the file cannot be opened, or is not whole.
    """
    # by Python, because Arrow takes only paths that are UTF-8
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.py_buffer(content)).get_batch(0)


def read(path: Path) -> Made | None:
    """Return a shard that a process before this one wrote for this folder; None if there is none that is whole."""
    try:
        pairs = mapped(path)
        said = pairs.schema.metadata or {}
        info = ShardInfo.model_validate_json(said[_FACTS])
        if said[_FOLDER] != path.parent.name.encode():
            return None
        return Made(info=info.model_copy(update={"bytes": path.stat().st_size}), pairs=pairs)
    except (OSError, ValueError, KeyError, pa.ArrowInvalid, ValidationError):
        return None


class Collector:
    """Collects documents of one source that are tokenised, and gives a shard whenever there are enough.

    Where a shard ends depends on the documents alone, and neither on the batches nor on where the collecting began.
    """

    def __init__(self, source: int, first: int, before: int, rows: int, schema: pa.Schema) -> None:
        """Begin with a document.

        Args:
            source: number of the source.
            first: number of the document in the source.
            before: count of documents in the sources before it.
            rows: see `ShardInfo`.
            schema: the columns of pairs.
        """
        self._source, self._first, self._before, self._rows = source, first, before, rows
        self._schema = schema
        self._batches: list[tuple[At, pa.RecordBatch]] = []
        self._tokens = self._documents = 0
        self._notices: dict[str, tuple[int, int]] = {}

    def add(self, at: At, encoded: Encoded) -> Iterator[Made]:
        """Take documents; yield the shards that are full with them."""
        notices = list(encoded.notices)
        left = encoded.pairs
        while (count := self._fitting(left)) is not None:
            some, left = left.slice(0, count), left.slice(count)
            last = some.column("document")[count - 1].as_py()
            self._take(at, some, [each for each in notices if each[0] <= last])
            notices = [each for each in notices if each[0] > last]
            yield self._made(is_last=False)
        self._take(at, left, notices)

    def finish(self) -> Made:
        """Return the last shard, which may be empty."""
        return self._made(is_last=True)

    def _fitting(self, pairs: pa.RecordBatch) -> int | None:
        """Return how many pairs fill the shard; None if there is room behind all of them."""
        if not len(pairs):
            return None
        offsets = pairs.column("tokens").offsets.to_numpy().astype(np.int64)
        documents_P = pairs.column("document").to_numpy()
        ends_P = np.append(documents_P[1:] != documents_P[:-1], True)
        are_full_P = ends_P & (
            (self._tokens + offsets[1:] - offsets[0] >= TOKENS) | (self._documents + np.cumsum(ends_P) >= DOCUMENTS)
        )
        return int(are_full_P.argmax()) + 1 if are_full_P.any() else None

    def _take(self, at: At, pairs: pa.RecordBatch, notices: Iterable[tuple[int, str]]) -> None:
        if not len(pairs):
            return
        documents_P = pairs.column("document").to_numpy()
        self._batches.append((at, pairs))
        self._tokens += len(pairs.column("tokens").flatten())
        self._documents += int((documents_P[1:] != documents_P[:-1]).sum()) + 1
        for document, text in notices:
            first, count = self._notices.get(text, (document - self._before, 0))
            self._notices[text] = (first, count + 1)

    def _made(self, is_last: bool) -> Made:
        table = pa.Table.from_batches([pairs for _, pairs in self._batches], self._schema)
        columns: dict[str, Any] = {name: _one(table.column(name)) for name in table.column_names}
        columns["domain"] = columns["domain"].dictionary_encode()
        at = self._batches[0][0] if self._batches else At()
        info = ShardInfo(
            source=self._source,
            first=self._first,
            documents=self._documents,
            pairs=table.num_rows,
            file=at.file,
            before=at.before,
            rows=self._rows,
            is_last=is_last,
            notices=tuple(
                Notice(text=text, first=first, count=count) for text, (first, count) in self._notices.items()
            ),
        )
        self._first += self._documents
        self._batches, self._notices = [], {}
        self._tokens = self._documents = 0
        return Made(info=info, pairs=pa.record_batch(columns))


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return found if isinstance(found, pa.Array) else pa.concat_arrays(found.chunks)
