"""The second pass over a source: its samples with what was said about them, part by part, in one go where parts are
neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from logitstore.errors import BadInput
from logitstore.text.foreign.block import Block, Foreign
from logitstore.text.foreign.index import Index
from logitstore.text.sample import blocks

ROWS = 8192
"""Rows that are given together, about: few enough for their lists to stay near the processor."""


class Walk:
    """Reads spans of samples. A span that follows the last one goes on where it ended; any other begins at its record."""

    def __init__(self, index: Index, source: Foreign, name: str) -> None:
        """Read nothing yet. `name` is that of the source, for messages."""
        self._index, self._source, self._name = index, source, name
        self._blocks: Iterator[tuple[int, Block]] = iter(())
        self._left: tuple[int, Block] | None = None
        self._at = -1

    def over(self, span: slice) -> Iterator[tuple[int, Block]]:
        """Yield the number of the first sample of a block, and the block: together the samples of a span, in their order.

        Raises:
            BadInput: the source cannot be read, or is another one than when it was indexed.
        """
        if self._at != span.start:
            self._blocks, self._left = self._from(span.start), None
            self._at = span.start
        while self._at < span.stop:
            number, block = self._left or self._next()
            stop = number + len(block.record_S)
            first, last = max(number, self._at), min(stop, span.stop)
            self._left = (number, block) if stop > span.stop else None
            if first < last:
                self._at = last
                for some in blocks(block.rows_S[first - number : last - number], ROWS):
                    begin = first - number + some.start
                    yield number + begin, block.some(slice(begin, first - number + some.stop))

    def _next(self) -> tuple[int, Block]:
        found = next(self._blocks, None)
        if found is None:
            raise self._changed()
        return found

    def _from(self, first: int) -> Iterator[tuple[int, Block]]:
        """Yield blocks with the numbers of their first samples, from the first sample of a record on."""
        index = self._index
        number = int(np.searchsorted(index.record_S, index.record_S[first]))
        for block in self._source.blocks(int(index.record_S[number]), with_lists=True):
            some = slice(number, number + len(block.record_S))
            same = [(index.record_S, block.record_S), (index.lengths_S, block.lengths_S), (index.rows_S, block.rows_S)]
            if not all(np.array_equal(ours_S[some], theirs_S) for ours_S, theirs_S in same):
                raise self._changed()
            if len(block.record_S):
                yield number, block
            number = some.stop

    def _changed(self) -> BadInput:
        return BadInput(f"{self._name}: it has changed since this command began. Give the same command again.")
