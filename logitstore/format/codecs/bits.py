"""Bit packing: whole numbers, each with its own fixed width in bits, are packed into the bytes of one row.

Number j of a row occupies the bits o_j, ..., o_j + b_j - 1, where o_j is the sum of the widths before it. Bit i of a row is
bit i mod 8 of its byte i // 8, the lowest first. Unused bits of the last byte are 0.

Axes: N rows, K numbers of a row, B bytes of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import beside, wide

MOST_BITS = 24
"""The largest width: with an offset of up to 7 bits, such a number lies within four bytes."""


@dataclass(frozen=True)
class Bits:
    """Packs K numbers per row; `widths` holds their widths in bits, each from 0 to 24."""

    widths: tuple[int, ...]

    def __post_init__(self) -> None:
        if any(not 0 <= width <= MOST_BITS for width in self.widths):
            raise ValueError(f"widths of {self.widths} bits: each must be from 0 to {MOST_BITS}")

    @property
    def bytes(self) -> int:
        """Count of bytes of a row."""
        return -(-sum(self.widths) // 8)

    @cached_property
    def _plan(self) -> tuple[Array, Array, Array]:
        """Arrays with the first byte, the shift inside this byte, and the mask of every number."""
        ends = np.cumsum(np.array(self.widths, np.int64))
        starts = ends - np.array(self.widths, np.int64)
        return starts // 8, starts % 8, (1 << np.array(self.widths, np.int64)) - 1

    @cached_property
    def _bytes_read(self) -> tuple[Array, ...]:
        """Arrays with the four bytes from which every number is taken; those beyond the row's last are not looked at."""
        return tuple(np.minimum(self._plan[0] + step, self.bytes - 1) for step in range(4))

    def encode(self, numbers_NK: Array) -> Array:
        """Return the packed rows, uint8[N, B].

        Raises:
            ValueError: a number does not fit its width.
        """
        first_K, shift_K, mask_K = self._plan
        # number by number and byte by byte: what is worked on lies together
        wanted_KN = np.ascontiguousarray(numbers_NK.T, np.int64)
        if ((wanted_KN < 0) | (wanted_KN > mask_K[:, None])).any():
            raise ValueError("a number does not fit its width")
        packed_BN = np.zeros((self.bytes + 4, wanted_KN.shape[1]), np.uint8)
        for place, width in enumerate(self.widths):
            shifted_N = wanted_KN[place] << shift_K[place]
            for step in range(-(-(int(shift_K[place]) + width) // 8)):
                packed_BN[first_K[place] + step] |= (shifted_N >> (8 * step)).astype(np.uint8)
        return np.ascontiguousarray(packed_BN[: self.bytes].T)

    def decode(self, packed_NB: Any) -> Any:
        """Return the numbers, int64[N, K]."""
        if not self.bytes:
            return beside(np.zeros((len(packed_NB), len(self.widths)), np.int64), packed_NB)
        _, shift_K, mask_K = (beside(each, packed_NB) for each in self._plan)
        word_NK: Any = 0
        for step, place_K in enumerate(self._bytes_read):
            word_NK = word_NK | (wide(packed_NB[:, beside(place_K, packed_NB)]) << (8 * step))
        return (word_NK >> shift_K) & mask_K
