"""How many rows are worked on at once, and how rows that follow each other are found."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor

CPU_ELEMENTS = 1 << 21
"""A chunk and its few temporaries stay within a CPU's caches; measured to be twice as fast as chunks of 16 Mi elements."""


ASKED_ELEMENTS = 1 << 23
"""Elements of a teacher's logits that are reduced at once: a float32 copy of them takes 32 MiB."""


KERNEL_ELEMENTS = 1 << 22
"""For kernels that work in place. They make few passes over a chunk, so launching them costs more than memory outside the
caches."""


BLOCK_ELEMENTS = 1 << 25
"""Elements of logits that exist at once where the head is part of the loss: enough rows for fast matrix products."""


SUMMARY_ELEMENTS = 1 << 19
"""Two float32 buffers of this size, read several times, stay in the second-level caches of two cores."""


GPU_ELEMENTS = 1 << 26
"""For every kind of chunk on a GPU: large enough that kernels do not wait to be launched."""


def chunk_rows(vocabulary: int, device_type: str, cpu_elements: int = CPU_ELEMENTS) -> int:
    """Return the number of rows in a chunk, at least one."""
    return max((cpu_elements if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


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
