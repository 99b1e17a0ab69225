"""One part of a cache that is made of lists: rows are made, encoded and written, some samples at a time.

Axes: S samples, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType

import numpy as np

from logitstore.core.types import Answer, Array
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import FACTS, Fidelity
from logitstore.store.storage import Storage
from logitstore.store.writer import PartWriter
from logitstore.text.foreign.block import Block
from logitstore.text.foreign.index import Index, samples_of
from logitstore.text.foreign.lists import ListReader


@dataclass(frozen=True, kw_only=True, eq=False)
class _Promised:
    """A sample of which only the size is known before it is read again."""

    length: int
    rows: int
    key: str = ""
    gold_N: Array = field(default_factory=lambda: np.zeros(0, np.int64))


class ListPart:
    """A part that is being written. Use it as a context: leaving it without `commit` drops what was staged."""

    def __init__(
        self, out: Storage, manifest: Manifest, part: int, index: Index, reader: ListReader, name: str
    ) -> None:
        """Stage a part.

        Args:
            out: the storage of the cache.
            manifest: that of the cache.
            part: number of the part.
            index: says which samples it has.
            reader: makes rows of lists.
            name: of the source, for messages.

        Raises:
            PartTaken, StorageError: see `PartWriter`.
        """
        self._span, self._index, self._reader, self._name = manifest.span(part), index, reader, name
        self._codec = RowCodec(row=manifest.row)
        sizes = zip(index.lengths_S[self._span].tolist(), index.rows_S[self._span].tolist(), strict=True)
        promised = [_Promised(length=length, rows=rows) for length, rows in sizes]
        self._writer = PartWriter(out, manifest, part, promised)

    def __enter__(self) -> ListPart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.__exit__(kind, error, trace)

    def write(self, number: int, block: Block) -> int:
        """Write the rows of some samples; return how many they are.

        Args:
            number: of the first of them, in the whole source.
            block: the samples.

        Raises:
            BadInput: a list that cannot be one of the most probable tokens.
        """
        if block.lists is None:
            raise ValueError("a block without lists")
        ends_S = np.cumsum(block.rows_S)

        def where(row: int) -> str:
            sample = int(np.searchsorted(ends_S, row, side="right"))
            inside = row - (int(ends_S[sample - 1]) if sample else 0)
            return f"{self._name}: row {inside} of sample {number + sample}, in record {int(block.record_S[sample])}"

        kept = self._reader(block.lists, block.gold_N, where)
        encoded = self._codec.encode(kept)
        facts = {name: kept[name] for name in FACTS}
        samples = samples_of(block, self._index.document_S[number : number + len(block.record_S)])
        start = 0
        for place, (sample, stop) in enumerate(zip(samples, ends_S.tolist(), strict=True), number - self._span.start):
            some = slice(start, stop)
            self._writer.write(place, _some(encoded, some), _some(facts, some), sample)
            start = stop
        return start

    def commit(self) -> None:
        """Make the part visible. Nothing is known of how far lists are from the teacher's whole distributions."""
        self._writer.commit(Fidelity())


def _some(fields: dict[str, Array], some: slice) -> Answer:
    return Answer(fields={name: values[some] for name, values in fields.items()})
