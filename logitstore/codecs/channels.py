"""Hidden states in one byte a channel: statistics of the channels once per cache, one scale a row.

A value is mean + std * scale * q with q from -127 to 127: the channels of a hidden state differ in size by orders of
magnitude, the rows by little.

Axes: N rows, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from logitstore.codecs.either import beside, real
from logitstore.types import Array

LARGEST_SCALE = 65504.0
"""The largest float16. A channel that never moved in the pilot may ask for more; it is cut off there."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Hidden states by the `mean_D` and `std_D` (positive) of their channels, float32."""

    mean_D: Array
    std_D: Array

    def encode(self, hidden_ND: Array) -> tuple[Array, Array]:
        """int8[N, D] and the rows' scales, float16[N]. The error of a channel is at most half of std * scale."""
        standard_ND = (hidden_ND.astype(np.float32) - self.mean_D) / self.std_D
        scale_N = np.minimum(np.abs(standard_ND).max(1, initial=0.0) / 127, LARGEST_SCALE).astype(np.float16)
        # a scale rounded down would cut off the largest value
        too_small_N = scale_N.astype(np.float32) * 127 < np.abs(standard_ND).max(1, initial=0.0)
        too_small_N &= scale_N < LARGEST_SCALE
        scale_N = np.where(too_small_N, np.nextafter(scale_N, np.float16(LARGEST_SCALE)), scale_N)
        scale_N = np.maximum(scale_N, np.float16(2**-24))
        steps_ND = np.rint(standard_ND / scale_N.astype(np.float32)[:, None])
        return np.clip(steps_ND, -127, 127).astype(np.int8), scale_N

    def decode(self, stored_ND: Any, scale_N: Any) -> Any:
        """float32[N, D]."""
        scaled_ND = real(stored_ND) * real(scale_N)[:, None]
        return scaled_ND * beside(self.std_D, stored_ND) + beside(self.mean_D, stored_ND)
