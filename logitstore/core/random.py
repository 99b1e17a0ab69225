"""Random numbers that are the same on every machine: hashes of numbers, and streams of uniforms made from them."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, Philox

from logitstore.core.types import Array

DRAWS, FIDELITY, POSITIONS = 0, 1, 2
"""The uses of the random numbers. Each use has a stream of its own."""


def uniform(key: str, rows: int, width: int, stream: int) -> Array:
    """Return random numbers in [0, 1), float64[N, width].

    Args:
        key: the key of the sample, 32 hex digits; it is also the key of the generator.
        rows: count of rows N of the sample.
        width: count of numbers for each row.
        stream: DRAWS, FIDELITY or POSITIONS.
    """
    return generator(int(key, 16), stream).random((rows, width))


def generator(key: int, stream: int) -> Generator:
    """Return a Philox generator (Salmon et al. 2011). The key has up to 128 bits; streams below 2**64 are independent."""
    return Generator(Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64)))


def hashed(numbers_N: Array, salt: int | Array) -> Array:
    """Return uint64[N]: the SplitMix64 finaliser (Steele et al. 2014) of each number and a salt, or uint64[N], one for each."""
    with np.errstate(over="ignore"):
        added = salt if isinstance(salt, np.ndarray) else np.uint64(salt % (1 << 64))
        x = numbers_N.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + added
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(x ^ (x >> np.uint64(31)))
