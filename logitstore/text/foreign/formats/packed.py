"""Whole numbers of any width in bits, packed into the bytes of a row the highest bit first, as DistillKit packs them.

Axes: N rows, B bytes of a row, K numbers of a row.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np

from logitstore.core.types import Array

WIDEST = 57
"""The largest width: with an offset of up to 7 bits, such a number lies within eight bytes."""


def unpacked(packed_NB: Array, width: int, count: int) -> Array:
    """Return the numbers, [N, K], int32 for widths of up to 25 bits, else int64.

    Args:
        packed_NB: uint8.
        width: bits of a number, from 1 to 57.
        count: K.

    Raises:
        ValueError: the rows have not the bytes for so many numbers.
    """
    rows, size = packed_NB.shape
    if size != -(-count * width // 8):
        raise ValueError(f"{size} bytes for {count} numbers of {width} bits")
    word, kind = (4, np.dtype(">u4")) if width <= 25 else (8, np.dtype(">u8"))
    content = np.zeros(rows * size + word, np.uint8)
    content[: rows * size].reshape(rows, size)[...] = packed_NB
    numbers_NK = np.empty((rows, count), np.int32 if word == 4 else np.int64)
    # after so many numbers the bits begin at the same place of a byte again
    period = 8 // gcd(width, 8)
    mask, native = kind.newbyteorder("=").type((1 << width) - 1), kind.newbyteorder("=")
    for first in range(min(period, count)):
        byte, bit = divmod(first * width, 8)
        shape = rows, -(-(count - first) // period)
        words_NK: Any = np.ndarray(shape, kind, content.data, byte, (size, period * width // 8)).astype(native)
        words_NK >>= native.type(8 * word - width - bit)
        words_NK &= mask
        numbers_NK[:, first::period] = words_NK
    return numbers_NK
