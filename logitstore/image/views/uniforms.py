"""Draw the random numbers of a view: they depend only on seed, image, view and the transform's place in the list."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from logitstore.core.random import generator, hashed
from logitstore.core.types import Array

_SEED, _IMAGE, _VIEW = 0x7365656473, 0x696D616765, 0x7669657773
"""Salts that keep the three numbers apart: seeds, images, views."""


def seed_of(seed: int, image: int, view: int) -> int:
    """Return the 64-bit key of all random numbers of a view, as in docs/format.md, "Views of images".

    Args:
        seed: seed of the data set's views.
        image: number of the image, from 0.
        view: number of the view, from 0.
    """
    key = hashed(np.array([seed % (1 << 64)], np.uint64), _SEED)
    for number, salt in ((image, _IMAGE), (view, _VIEW)):
        key = hashed(key ^ np.uint64(number), salt)
    return int(key[0])


class Uniforms:
    """Hand out the random numbers of one transform of one view, in their order.

    No library's distributions are used: their code may change, but these few lines do not.

    Args:
        key: key of the view, from `seed_of`.
        stream: place of the transform in the list, from 0.
    """

    def __init__(self, key: int, stream: int) -> None:
        self._generator = generator(key, stream)

    def number(self) -> float:
        """Return the next number, in [0, 1): a multiple of 2**-53."""
        return float(self._generator.random())

    def numbers(self, shape: Sequence[int]) -> Array:
        """Return float64 of a shape, filled in C order with the next numbers."""
        return self._generator.random(tuple(shape))

    def between(self, low: float, high: float) -> float:
        """Return a number that is uniform in [low, high)."""
        return low + (high - low) * self.number()

    def log_between(self, low: float, high: float) -> float:
        """Return a number whose logarithm is uniform between those of low and high."""
        return math.exp(self.between(math.log(low), math.log(high)))

    def below(self, count: int) -> int:
        """Return one of 0 .. count - 1, each as likely; count is at most 2**52."""
        return int(count * self.number())

    def happens(self, chance: float) -> bool:
        """Return whether something of this chance happens: whether the next number is below it."""
        return self.number() < chance

    def order(self, count: int) -> list[int]:
        """Return a permutation of 0 .. count - 1, by Fisher and Yates, from the last place to the second."""
        order = list(range(count))
        for place in range(count - 1, 0, -1):
            other = self.below(place + 1)
            order[place], order[other] = order[other], order[place]
        return order

    def beta(self, alpha: float) -> float:
        """Return a number from Beta(alpha, alpha), by Jöhnk (1964): quick for alpha up to about 4."""
        while True:
            one, other = math.pow(self.number(), 1 / alpha), math.pow(self.number(), 1 / alpha)
            if 0 < one + other <= 1:
                return one / (one + other)
