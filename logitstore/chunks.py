"""Decide how many rows of `[N, V]` to process at once: as many as hold a number of elements that was measured to be fast."""

from __future__ import annotations

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
