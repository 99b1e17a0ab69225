"""Make tokens of some rows, as Arrow arrays; processes that tokenise import this, so it is light.

A pair is what the teacher sees of a row; most rows have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.dump.files.piece import Values
from logitstore.errors import BadInput
from logitstore.text.forms.form import Document, Encoder, Row
from logitstore.text.scored.said import NO_COLUMNS, Said
from logitstore.text.scored.values import arrays_of

MADE = "4"
"""Raise this when the same documents give other tokens or flags, so that no stored ones of an earlier version are taken."""

LONGEST = (1 << 31) - 1


@dataclass(frozen=True, kw_only=True)
class Job:
    """How the rows of one source become tokens: a value that can be pickled.

    Attributes:
        encode: that of the form.
        encoder: what rows are encoded with.
        source: the data, for messages.
        is_partial: only some tokens of the documents of any source may have rows.
        domain_column: the column that names the domain of a document.
        domain: the domain of all documents, where no column does.
        said: the columns with scores and groups.
    """

    encode: Callable[[Encoder, list[Row], list[str]], list[Document]]
    encoder: Encoder
    source: str
    is_partial: bool
    domain_column: str | None
    domain: str | None
    said: Said = NO_COLUMNS


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some documents before they are tokenised.

    Attributes:
        values: their columns.
        documents_D: int64, numbers of the documents in the data of all sources.
        numbers_D: int64, numbers of the rows in the source, from 1, as messages give them.
    """

    values: Values
    documents_D: Array
    numbers_D: Array

    def __len__(self) -> int:
        return len(self.documents_D)

    def __getitem__(self, span: slice) -> Rows:
        start, stop, _ = span.indices(len(self))
        if isinstance(self.values, dict):
            some: Values = {name: column[start:stop] for name, column in self.values.items()}
        else:
            some = self.values.slice(start, stop - start)
        return Rows(values=some, documents_D=self.documents_D[start:stop], numbers_D=self.numbers_D[start:stop])

    def __reduce__(self) -> tuple[Any, ...]:
        values = self.values if isinstance(self.values, dict) else _packed(self.values)
        return _rows, (values, self.documents_D, self.numbers_D)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Some documents as tokens.

    Attributes:
        pairs: a row for each pair: `tokens`, `document`, `domain`, `said` where only some tokens may have rows, and
            the columns of scores and groups that the job names.
        notices: the number of a document, and what the user should know about it.
    """

    pairs: pa.RecordBatch
    notices: list[tuple[int, str]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _encoded, (_packed(self.pairs), self.notices)


def _packed(batch: pa.RecordBatch) -> bytes:
    """Return a record batch as bytes: of a slice, nothing but the slice, unlike its own pickle."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def _unpacked(content: bytes) -> pa.RecordBatch:
    return pa.ipc.open_stream(content).read_next_batch()


def _rows(values: Any, documents_D: Array, numbers_D: Array) -> Rows:
    some: Values = _unpacked(values) if isinstance(values, bytes) else values
    return Rows(values=some, documents_D=documents_D, numbers_D=numbers_D)


def _encoded(pairs: bytes, notices: list[tuple[int, str]]) -> Encoded:
    return Encoded(pairs=_unpacked(pairs), notices=notices)


def schema_of(is_partial: bool, said: Said) -> pa.Schema:
    """Return the columns of pairs."""
    fields = [("tokens", pa.list_(pa.uint32())), ("document", pa.int64()), ("domain", pa.string())]
    flags = [("said", pa.list_(pa.bool_()))] if is_partial else []
    return pa.schema([*fields, *flags, *said.fields])


def encoded(job: Job, rows: Rows) -> Encoded:
    """Return some rows as tokens.

    Raises:
        BadInput: a row that cannot be used; the message names it.
    """
    values = rows.values if isinstance(rows.values, dict) else rows.values.to_pydict()
    places = [f"--data {job.source}, row {number}" for number in rows.numbers_D.tolist()]
    each_row: list[Row] = [dict(zip(values, some, strict=True)) for some in zip(*values.values(), strict=True)]
    found = job.encode(job.encoder, each_row, places)
    counts_D = np.fromiter((len(each.pairs) for each in found), np.int64, len(found))
    pairs = [pair for each in found for pair in each.pairs]
    lengths_P = np.fromiter((len(tokens) for tokens, _ in pairs), np.int64, len(pairs))
    if lengths_P.sum() > LONGEST:
        longest = int(np.repeat(np.arange(len(found)), counts_D)[lengths_P.argmax()])
        raise BadInput(f"{places[longest]}: it has more than {LONGEST:,} tokens with its neighbours. Split the row.")
    domains = pa.array(_domains(job, values, len(found)), pa.string())
    owners_P = np.repeat(np.arange(len(found)), counts_D)
    columns = {
        "tokens": _lists(lengths_P, chain.from_iterable(tokens for tokens, _ in pairs), np.uint32),
        "document": pa.array(rows.documents_D[owners_P]),
        "domain": domains if len(owners_P) == len(found) else domains.take(pa.array(owners_P)),
    }
    if job.is_partial:
        # a form that flags no token has rows about every one
        flags = (said or [True] * len(tokens) for tokens, said in pairs)
        columns["said"] = _lists(lengths_P, chain.from_iterable(flags), np.bool_)
    for field, array in zip(job.said.fields, arrays_of(job.said, values, places), strict=True):
        columns[field.name] = array.take(pa.array(owners_P))
    documents = rows.documents_D.tolist()
    return Encoded(
        pairs=pa.record_batch(columns, schema=schema_of(job.is_partial, job.said)),
        notices=[
            (document, notice) for document, each in zip(documents, found, strict=True) for notice in each.notices
        ],
    )


def _domains(job: Job, values: dict[str, list[Any]], count: int) -> list[str | None]:
    if job.domain_column is None:
        return [job.domain] * count
    return [None if value is None else str(value) for value in values[job.domain_column]]


def _lists(lengths_P: Array, values: Any, kind: Any) -> pa.ListArray:
    offsets = np.zeros(len(lengths_P) + 1, np.int32)
    np.cumsum(lengths_P, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.fromiter(values, kind, int(offsets[-1]))))
