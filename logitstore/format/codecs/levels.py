"""Logprobs stored as levels of p**(1/4): fine steps for large probabilities, and no tiny probability becomes 0.

With b bits and L = 2**b - 1, level c from 1 to L stands for p = (c / L)**4, and level 0 for p = 0. With the same number of
bits, equal steps of p**(1/4) lose less KL than equal steps of p, of its square root or of its logarithm.

Axes: N rows, K entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import look_up
from logitstore.format.codecs.bits import Bits

POWER = 4


@dataclass(frozen=True)
class Levels:
    """Codec of K logprobs per row in `bits` bits each; they are packed unless `bits` is 8."""

    bits: int
    k: int

    @property
    def top(self) -> int:
        """L, the level of probability 1."""
        return (1 << self.bits) - 1

    @cached_property
    def table(self) -> Array:
        """float32[L + 1]: the logprob of every level, nats."""
        with np.errstate(divide="ignore"):
            return (POWER * np.log(np.arange(self.top + 1) / self.top)).astype(np.float32)

    @cached_property
    def _packing(self) -> Bits:
        return Bits((self.bits,) * self.k)

    @property
    def mass_error(self) -> float:
        """Largest difference between the decoded listed mass of a row and the encoded one.

        The fourth root of the mass is the 4-norm of the values p**(1/4). Each value changes by at most half a step, so the
        norm of K values changes by at most K**(1/4) / (2 L) (Minkowski). Probabilities below half a step may gain (1 / L)**4
        each.
        """
        moved = self.k ** (1 / POWER) / (2 * self.top)
        return float((1 + moved) ** POWER - 1 + self.k / self.top**POWER) + 1e-6

    @property
    def probability_error(self) -> float:
        """Largest difference between a decoded probability and the encoded one: half a step below probability 1."""
        return float(1 - (1 - 0.5 / self.top) ** POWER)

    def encode(self, logprobs_NK: Array) -> Array:
        """Return the packed levels, uint8[N, B]. A probability above 0 never becomes 0."""
        probs_NK = np.exp(logprobs_NK.astype(np.float32))
        levels_NK = np.rint(self.top * np.sqrt(np.sqrt(probs_NK)))
        levels_NK = np.where(np.isneginf(logprobs_NK), 0, np.clip(levels_NK, 1, self.top)).astype(np.uint8)
        return levels_NK if self.bits == 8 else self._packing.encode(levels_NK)

    def decode(self, stored_NB: Any) -> Any:
        """Return the logprobs, float32[N, K], nats; not normalised."""
        levels_NK = stored_NB if self.bits == 8 else self._packing.decode(stored_NB)
        return look_up(self.table, levels_NK)
