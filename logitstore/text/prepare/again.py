"""Make the tokens of some documents again, where they are not kept: the data are read and tokenised where a part needs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from logitstore.dump.files.piece import At
from logitstore.errors import BadInput
from logitstore.text.prepare.encoded import Rows, encoded
from logitstore.text.prepare.folder import TokensInfo
from logitstore.text.prepare.preparation import Source
from logitstore.text.prepare.tokens import BLOCK


class Again:
    """Gives the pairs of blocks of documents. Blocks in rising order are read in one go."""

    def __init__(self, sources: Sequence[Source], known: TokensInfo, unchanged: Callable[[], None]) -> None:
        """Read nothing yet; `unchanged` raises an error where the data are no longer those that were prepared."""
        self._sources, self._known, self._unchanged = sources, known, unchanged
        self._ends = list(accumulate(sum(s.documents for s in known.of_source(n)) for n in range(len(sources))))
        self._reading: dict[int, _Reading] = {}
        self._lock = threading.Lock()

    def __call__(self, block: int) -> pa.RecordBatch:
        """Return the pairs of a block. Raises BadInput: the data have changed, or cannot be read."""
        document, stop = block * BLOCK, min((block + 1) * BLOCK, self._known.documents)
        found: list[pa.RecordBatch] = []
        with self._lock:
            while document < stop:
                place = int(np.searchsorted(self._ends, document, "right"))
                source, before = self._sources[place], self._ends[place - 1] if place else 0
                most = min(stop, self._ends[place])
                for rows in self._rows(place, document - before, most - before, before):
                    found.append(encoded(source.job, rows).pairs)
                document = most
        self._unchanged()
        return pa.concat_batches(found)

    def _rows(self, place: int, first: int, stop: int, before: int) -> Iterator[Rows]:
        reading = self._reading.get(place)
        if reading is None or not reading.reaches(first):
            shard = max(
                (each for each in self._known.of_source(place) if each.first <= first and each.documents),
                key=lambda each: each.first,
            )
            reading = self._reading[place] = _Reading(self._sources[place], first, before, shard.at)
        return reading.until(first, stop)


class _Reading:
    """Documents of one source that are read one after the other."""

    def __init__(self, source: Source, first: int, before: int, at: At) -> None:
        self._source = source
        self._next = first
        self._left: Rows | None = None
        self._batches = (rows for _, rows in source.batches(first, before, at))
        self._can_skip = source.documents.columns.count() is not None

    def reaches(self, first: int) -> bool:
        """Return True if it is better to read on to a document than to begin again."""
        return self._next == first or (self._next < first and not self._can_skip)

    def until(self, first: int, stop: int) -> Iterator[Rows]:
        """Yield the documents from one to another; what lies before them is passed."""
        while self._next < stop:
            rows: Rows | None = self._left or next(self._batches, None)
            if rows is None:
                raise BadInput(
                    f"--data {self._source.documents.spec.source}: it has fewer rows than when it was prepared. Run the same "
                    "command again."
                )
            skip, most = max(first - self._next, 0), min(stop - self._next, len(rows))
            self._left = rows[most:] if most < len(rows) else None
            self._next += most
            if skip < most:
                yield rows[skip:most]
