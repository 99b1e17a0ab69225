"""Codec of a mass on a logarithmic scale: from 1 down to 2**-32, and exactly 0.

With b bits and L = 2**b - 1, level c from 1 to L stands for 2**(-32 (L - c) / (L - 1)), and level 0 for mass 0. A positive
mass below 2**-32 becomes 2**-32: a negligible mass, but still a tail.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import look_up

OCTAVES = 32


@dataclass(frozen=True)
class Log2:
    """Codec of log masses in 8 or 16 bits."""

    bits: int

    @property
    def top(self) -> int:
        return (1 << self.bits) - 1

    @property
    def bound(self) -> float:
        """Largest error of a decoded log mass, nats, if the mass is above 2**-32."""
        return 0.5 * OCTAVES / (self.top - 1) * float(np.log(2)) * (1 + 1e-5)

    @cached_property
    def table(self) -> Array:
        """float32[L + 1]: the log mass of every level, nats."""
        levels = np.arange(self.top + 1)
        masses = -OCTAVES * (self.top - levels) / (self.top - 1) * np.log(2)
        return np.where(levels == 0, -np.inf, masses).astype(np.float32)

    def encode(self, logmass_N: Array) -> Array:
        """Return the levels, uint8[N] or uint16[N]."""
        octaves_N = logmass_N.astype(np.float64) / np.log(2)
        with np.errstate(invalid="ignore"):
            levels_N = np.clip(np.rint(self.top + octaves_N * (self.top - 1) / OCTAVES), 1, self.top)
        levels_N = np.where(np.isneginf(octaves_N), 0, levels_N)
        return levels_N.astype(np.uint8 if self.bits == 8 else np.uint16)

    def decode(self, stored_N: Any) -> Any:
        """Return the log masses, float32[N], nats."""
        return look_up(self.table, stored_N)
