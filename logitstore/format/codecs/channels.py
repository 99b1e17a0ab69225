"""Hidden states in one byte a channel: statistics of the channels once per cache, one scale a row.

A value is mean + std * scale * q with q from -127 to 127: the channels of a hidden state differ in size by orders of
magnitude, the rows by little.

Axes: N rows, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import beside, cast, library, real

LARGEST_SCALE = 65504.0
"""The largest float16. A channel that never moved in the pilot may ask for more; it is cut off there."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Hidden states by the `mean_D` and `std_D` (positive) of their channels, float32."""

    mean_D: Array
    std_D: Array

    def encode(self, hidden_ND: Any) -> tuple[Any, Any]:
        """int8[N, D] and the rows' scales, float16[N]. The error of a channel is at most half of std * scale."""
        xp = library(hidden_ND)
        standard_ND = (real(hidden_ND) - beside(self.mean_D, hidden_ND)) / beside(self.std_D, hidden_ND)
        largest_N = xp.amax(xp.abs(standard_ND), 1)
        scale_N = cast(xp.clip(largest_N / 127, None, LARGEST_SCALE), "float16")
        # a scale rounded down would cut off the largest value; the bits of the next float16 are one more
        is_too_small_N = (real(scale_N) * 127 < largest_N) & (scale_N < LARGEST_SCALE)
        scale_N = (scale_N.view(xp.int16) + cast(is_too_small_N, "int16")).view(xp.float16)
        scale_N = xp.clip(scale_N, 2**-24, None)
        steps_ND = xp.round(standard_ND / real(scale_N)[:, None])
        return cast(xp.clip(steps_ND, -127, 127), "int8"), scale_N

    def decode(self, stored_ND: Any, scale_N: Any) -> Any:
        """float32[N, D]."""
        scaled_ND = real(stored_ND) * real(scale_N)[:, None]
        return scaled_ND * beside(self.std_D, stored_ND) + beside(self.mean_D, stored_ND)
