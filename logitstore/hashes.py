"""The one hash function behind whatever must look random and be the same everywhere: orders, shares, seeds."""

from __future__ import annotations

import numpy as np

from logitstore.types import Array


def hashed(numbers_N: Array, salt: int) -> Array:
    """uint64[N]: the SplitMix64 finaliser (Steele et al. 2014) of each number and a salt."""
    with np.errstate(over="ignore"):
        x = numbers_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(salt % (1 << 64))
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
