"""How many rows of `[N, V]` to work on at once."""

from __future__ import annotations

CPU_ELEMENTS = 1 << 21
"""A chunk and its few temporaries stay within reach of a CPU's caches; measured twice as fast as chunks of 16 Mi."""

GPU_ELEMENTS = 1 << 26
"""Large enough that kernels are not waiting to be launched."""


def chunk_rows(vocabulary: int, device_type: str) -> int:
    """Rows in a chunk, at least one."""
    return max((CPU_ELEMENTS if device_type == "cpu" else GPU_ELEMENTS) // vocabulary, 1)


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
