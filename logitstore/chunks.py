"""How many rows of `[N, V]` to work on at once, and which."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor

CPU_ELEMENTS = 1 << 21
"""A chunk and its few temporaries stay within reach of a CPU's caches; measured twice as fast as chunks of 16 Mi."""

GPU_ELEMENTS = 1 << 26
"""Large enough that kernels are not waiting to be launched."""


def chunk_rows(vocabulary: int, device_type: str) -> int:
    """Rows in a chunk, at least one."""
    return max((CPU_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


CPU_ASKED_ELEMENTS = 1 << 23
"""Logits that are reduced in one go; what makes copies of them goes over them in smaller pieces."""


def asked_rows(vocabulary: int, device_type: str) -> int:
    """Rows of a teacher's batch that are reduced in one go, at least one."""
    return max((CPU_ASKED_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


CPU_KERNEL_ELEMENTS = 1 << 22
"""For kernels that work in place: few passes over a chunk, so starting them weighs more than where the chunk lies."""


def kernel_rows(vocabulary: int, device_type: str) -> int:
    """Rows that a kernel in place works on at once, at least one."""
    return max((CPU_KERNEL_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


CPU_BLOCK_ELEMENTS = 1 << 25
"""Logits that exist at once where the head is part of the loss: enough rows for fast matrix products."""


def block_rows(vocabulary: int, device_type: str) -> int:
    """Rows whose logits exist at once, at least one."""
    return max((CPU_BLOCK_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


CPU_SUMMARY_ELEMENTS = 1 << 19
"""Two float32 buffers of this size, gone over several times, stay in the second-level caches of two cores."""


def summary_rows(vocabulary: int, device_type: str) -> int:
    """Rows whose logits are gone over at once, at least one."""
    return max((CPU_SUMMARY_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


SHORT_RUN = 16
"""Where consecutive positions come in shorter runs than this, on average, copying them together costs less."""


def runs(rows_N: Tensor, chunk: int) -> Iterator[tuple[slice, slice | Tensor]]:
    """Chunks of rows and their positions: on the CPU cut where positions leave a gap, so that each is a view.

    Args:
        rows_N: int64, rising positions.
        chunk: most rows at a time.

    Yields:
        which of the rows, and their positions: a slice where they are consecutive.
    """
    if rows_N.device.type == "cpu" and len(rows_N):
        positions_N = rows_N.numpy()
        starts = [0, *(np.flatnonzero(np.diff(positions_N) != 1) + 1).tolist(), len(positions_N)]
        if (len(starts) - 1) * SHORT_RUN <= len(positions_N) or len(starts) == 2:
            for start, stop in pairwise(starts):
                for first in range(start, stop, chunk):
                    last = min(first + chunk, stop)
                    place = int(positions_N[first])
                    yield slice(first, last), slice(place, place + last - first)
            return
    for first in range(0, len(rows_N), chunk):
        some = slice(first, min(first + chunk, len(rows_N)))
        yield some, rows_N[some]
