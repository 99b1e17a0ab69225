"""A text as it is put to the teacher, and how long documents are cut into windows.

Axes: T tokens of one sample, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash

from logitstore.core.types import Array


@dataclass(frozen=True)
class Window:
    """Tokens [start, stop) of a document; its rows are about the positions from `first` to stop - 2.

    The positions before `first` are context only: the window before has a row for each of them, with more context.
    """

    start: int
    stop: int
    first: int


def cut(length: int, max_length: int, overlap: int) -> list[Window]:
    """Return windows of at most `max_length` tokens over a document; each begins `overlap` tokens before the end of the last.

    A position in an overlap keeps the row of the earlier window, which has more context. With an overlap of at least one
    token, every position except the last of the document has exactly one row. Without overlap, the last position of each
    earlier window has no row either, because its gold token lies in the next window.
    """
    windows = [Window(start=0, stop=min(length, max_length), first=0)]
    while (last := windows[-1]).stop < length:
        start = last.start + max_length - overlap
        windows.append(Window(start=start, stop=min(length, start + max_length), first=max(start, last.stop - 1)))
    return windows


def key_of(tokens_T: Array) -> str:
    """Return the key of a sample: xxh3-128, in hex, of its tokens as little-endian uint32."""
    return xxhash.xxh3_128_hexdigest(tokens_T.astype("<u4").tobytes())


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
    """

    key: str
    tokens_T: Array
    mask_T: Array
    document: int
    window: int = 0
    start: int = 0
    domain: str | None = None

    @property
    def length(self) -> int:
        """Count of tokens."""
        return len(self.tokens_T)

    @property
    def rows(self) -> int:
        return int(self.mask_T.sum())

    @property
    def positions_N(self) -> Array:
        """int64[N]: the positions that have a row."""
        return np.flatnonzero(self.mask_T)

    @property
    def gold_N(self) -> Array:
        """int64[N]: the token that follows each row's position."""
        return np.asarray(self.tokens_T[self.positions_N + 1], np.int64)
