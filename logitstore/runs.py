"""Cut the rows of a batch into pieces that can be processed where they lie."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor

SHORTEST = 16
"""If runs of consecutive positions are on average shorter than this, copying them together costs less."""


def runs(rows_N: Tensor, chunk: int) -> Iterator[tuple[slice, slice | Tensor]]:
    """Yield chunks of rows and their positions. On the CPU a chunk ends where positions leave a gap, so that each chunk is
    a view.

    Args:
        rows_N: int64, rising positions.
        chunk: most rows in a chunk.

    Yields:
        the rows as a slice, and their positions: a slice where they are consecutive.
    """
    if rows_N.device.type == "cpu" and len(rows_N):
        positions_N = rows_N.numpy()
        starts = [0, *(np.flatnonzero(np.diff(positions_N) != 1) + 1).tolist(), len(positions_N)]
        if (len(starts) - 1) * SHORTEST <= len(positions_N) or len(starts) == 2:
            for start, stop in pairwise(starts):
                for first in range(start, stop, chunk):
                    last = min(first + chunk, stop)
                    place = int(positions_N[first])
                    yield slice(first, last), slice(place, place + last - first)
            return
    yield from groups(rows_N, chunk)


def groups(rows_N: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the same in chunks of exactly `size` rows, except the last chunk, wherever the rows lie."""
    for first in range(0, len(rows_N), size):
        some = slice(first, min(first + size, len(rows_N)))
        yield some, rows_N[some]
