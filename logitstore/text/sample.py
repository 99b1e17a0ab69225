"""A text as it is put to the teacher, and how long documents are cut into windows, many documents at a time.

Axes: D documents, W windows, S samples (windows with rows), T tokens, N rows or items of any kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import xxhash

from logitstore.core.types import Array
from logitstore.text.scored.columns import NOTHING, Told


def key_of(tokens_T: Array) -> str:
    """Return the key of a sample: xxh3-128, in hex, of its tokens as little-endian uint32."""
    return xxhash.xxh3_128_hexdigest(tokens_T.astype("<u4").tobytes())


def keys_of(tokens_T: Array, offsets: Array) -> list[str]:
    """Return the keys of samples whose tokens stand one after the other.

    Args:
        tokens_T: the tokens of all of them.
        offsets: int64[S + 1], where each begins, and where the last one ends.
    """
    content = np.ascontiguousarray(tokens_T, "<u4").data.cast("B")
    places = (4 * offsets).tolist()
    return [xxhash.xxh3_128_hexdigest(content[first:last]) for first, last in pairwise(places)]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One input for the teacher, made from the data set.

    Attributes:
        key: hex digest of the tokens.
        tokens_T: token ids [T]; int64, or the stored dtype if the sample was read from a cache.
        mask_T: bool[T]; True if the position has a row. The row at position t is about token t + 1, so the last
            entry is always False.
        document: index of the document in the data set.
        window: number of the window in its document, from 0.
        start: offset of the window's first token in its document.
        domain: the origin of the document, if the data name it.
        gold_T: bool[T]; True if the data ask about token t + 1. None where each of these positions has a row.
        told: the scores and the group that the data name.
        undecided: how many of the positions in `mask_T` will have a row, where the teacher's answers decide which; None where
            that is known.
    """

    key: str
    tokens_T: Array
    mask_T: Array
    document: int
    window: int = 0
    start: int = 0
    domain: str | None = None
    gold_T: Array | None = None
    undecided: int | None = None
    told: Told = NOTHING

    @property
    def length(self) -> int:
        """Count of tokens."""
        return len(self.tokens_T)

    @property
    def rows(self) -> int:
        return int(self.mask_T.sum()) if self.undecided is None else self.undecided

    @property
    def scores(self) -> dict[str, float]:
        """The scores by name; one that the data do not give is left out."""
        return dict(self.told.scores)

    @property
    def group(self) -> str | None:
        """The group that it belongs to, if any."""
        return self.told.group

    @property
    def positions_N(self) -> Array:
        """int64[N]: the positions that have a row, or may have one."""
        return np.flatnonzero(self.mask_T)

    @property
    def gold_N(self) -> Array:
        """int64[N]: the token that follows each row's position."""
        return np.asarray(self.tokens_T[self.positions_N + 1], np.int64)


BLOCK = 1 << 20
"""About how many tokens are looked at together."""


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of some documents, in the order of the documents: tokens [start, stop) of each.

    The rows of a window are about the positions from `first` to stop - 2. The positions before `first` are context only: the
    window before has a row for each of them, with more context.

    Attributes:
        document_W: int64, index of the document.
        number_W: int64, number of the window in its document, from 0.
        start_W, stop_W, first_W: int64, offsets in the document.
    """

    document_W: Array
    number_W: Array
    start_W: Array
    stop_W: Array
    first_W: Array

    def places(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield document, number, start, stop and first of every window."""
        columns = (self.document_W, self.number_W, self.start_W, self.stop_W, self.first_W)
        return zip(*(column.tolist() for column in columns), strict=True)

    @property
    def rows_W(self) -> Array:
        """int64, count of positions of every window that may have a row."""
        return np.asarray(np.maximum(self.stop_W - self.first_W - 1, 0))


def cut(lengths_D: Array, max_length: int, overlap: int) -> Windows:
    """Return windows of at most `max_length` tokens; each begins `overlap` tokens before the end of the one before it.

    A position in an overlap keeps the row of the earlier window, which has more context. With an overlap of at least one
    token, every position except the last of the document has exactly one row. Without overlap, the last position of each
    earlier window has no row either, because its gold token lies in the next window. A document has at least one window.

    Args:
        lengths_D: tokens of each document.
        max_length: the largest count of tokens in a window.
        overlap: count of tokens that two neighbouring windows share, less than `max_length`.
    """
    lengths_D = np.asarray(lengths_D, np.int64)
    step = max_length - overlap
    counts_D = 1 + np.maximum(-((max_length - lengths_D) // step), 0)
    document_W = np.repeat(np.arange(len(lengths_D)), counts_D)
    number_W = counted(counts_D)
    start_W = number_W * step
    return Windows(
        document_W=document_W,
        number_W=number_W,
        start_W=start_W,
        stop_W=np.minimum(start_W + max_length, lengths_D[document_W]),
        first_W=start_W + np.where(number_W > 0, max(overlap - 1, 0), 0),
    )


def counted(counts_N: Array) -> Array:
    """Return 0, 1, ... count - 1 for each count, one after the other; int64."""
    ends_N = np.cumsum(counts_N, dtype=np.int64)
    return np.arange(ends_N[-1] if len(ends_N) else 0) - np.repeat(ends_N - counts_N, counts_N)


def blocks(sizes_N: Array, budget: int) -> Iterator[slice]:
    """Yield neighbouring items in blocks of at most `budget` in all; a larger item is a block of its own."""
    ends_N = np.cumsum(sizes_N, dtype=np.int64)
    start = 0
    while start < len(ends_N):
        before = int(ends_N[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends_N, before + budget, "right")), start + 1)
        yield slice(start, stop)
        start = stop
