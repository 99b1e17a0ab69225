"""Hidden states in one byte per channel: each cache has statistics of the channels, and each row has one scale.

A value is mean + std * scale * q with q from -127 to 127. This fits because the channels of a hidden state differ in size by
orders of magnitude, and the rows only a little.

Axes: N rows, D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import beside, cast, library, real

LARGEST_SCALE = 65504.0
"""The largest float16. A channel that was constant in the pilot may need a larger scale; its values are then clipped."""


TOGETHER = 1 << 17
"""Values that NumPy encodes together: few enough to stay, with their temporaries, in a processor's caches."""


@dataclass(frozen=True, eq=False)
class Channels:
    """Codec of hidden states; `mean_D` and `std_D` (positive), float32, are the statistics of the channels."""

    mean_D: Array
    std_D: Array

    def encode(self, hidden_ND: Any) -> tuple[Any, Any]:
        """Return int8[N, D] and the scales of the rows, float16[N]. The error of a channel is at most std * scale / 2."""
        rows = max(TOGETHER // max(len(self.mean_D), 1), 1)
        if not isinstance(hidden_ND, np.ndarray) or len(hidden_ND) <= rows:
            return self._encoded(hidden_ND)
        values_ND, scale_N = np.empty(hidden_ND.shape, np.int8), np.empty(len(hidden_ND), np.float16)
        for first in range(0, len(hidden_ND), rows):
            some = slice(first, first + rows)
            values_ND[some], scale_N[some] = self._encoded(hidden_ND[some])
        return values_ND, scale_N

    def _encoded(self, hidden_ND: Any) -> tuple[Any, Any]:
        xp = library(hidden_ND)
        standard_ND = (real(hidden_ND) - beside(self.mean_D, hidden_ND)) / beside(self.std_D, hidden_ND)
        largest_N = xp.amax(xp.abs(standard_ND), 1)
        scale_N = cast(xp.clip(largest_N / 127, None, LARGEST_SCALE), "float16")
        # a scale rounded down would clip the largest value; adding 1 to the bits gives the next float16
        is_too_small_N = (real(scale_N) * 127 < largest_N) & (scale_N < LARGEST_SCALE)
        scale_N = (scale_N.view(xp.int16) + cast(is_too_small_N, "int16")).view(xp.float16)
        scale_N = xp.clip(scale_N, 2**-24, None)
        steps_ND = xp.round(standard_ND / real(scale_N)[:, None])
        return cast(xp.clip(steps_ND, -127, 127), "int8"), scale_N

    def decode(self, stored_ND: Any, scale_N: Any) -> Any:
        """Return the hidden states, float32[N, D]."""
        scaled_ND = real(stored_ND) * real(scale_N)[:, None]
        return scaled_ND * beside(self.std_D, stored_ND) + beside(self.mean_D, stored_ND)
