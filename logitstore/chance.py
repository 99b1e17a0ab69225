"""Random numbers of a row that depend on its sample and on nothing else: not on batches, parts, devices or who asks.

Axes: N rows of one sample.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator, Philox

from logitstore.types import Array

DRAWS, FIDELITY = 0, 1
"""What the numbers are for: each use has a stream of its own."""


def uniform(key: str, rows: int, width: int, stream: int) -> Array:
    """float64[N, width] in [0, 1).

    Args:
        key: of the sample, 32 hex digits: the key of the generator.
        rows: of the sample.
        width: numbers of a row.
        stream: DRAWS or FIDELITY.
    """
    return generator(int(key, 16), stream).random((rows, width))


def generator(key: int, stream: int) -> Generator:
    """The Philox generator (Salmon et al. 2011) with a key of up to 128 bits; each stream, below 2**64, is its own."""
    return Generator(Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64)))
