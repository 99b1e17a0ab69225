"""How many rows of `[N, V]` to work on at once: as many as hold a number of elements that was measured to be good."""

from __future__ import annotations

CPU_ELEMENTS = 1 << 21
"""A chunk and its few temporaries stay within reach of a CPU's caches; measured twice as fast as chunks of 16 Mi."""

ASKED_ELEMENTS = 1 << 23
"""Of a teacher's logits that are reduced in one go: a float32 copy of them is 32 MiB."""

KERNEL_ELEMENTS = 1 << 22
"""For kernels that work in place: few passes over a chunk, so starting them weighs more than where the chunk lies."""

BLOCK_ELEMENTS = 1 << 25
"""Of logits that exist at once where the head is part of the loss: enough rows for fast matrix products."""

SUMMARY_ELEMENTS = 1 << 19
"""Two float32 buffers of this size, gone over several times, stay in the second-level caches of two cores."""

GPU_ELEMENTS = 1 << 26
"""On a GPU for all of them: large enough that kernels are not waiting to be launched."""


def chunk_rows(vocabulary: int, device_type: str, cpu_elements: int = CPU_ELEMENTS) -> int:
    """Rows in a chunk, at least one."""
    return max((cpu_elements if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)
