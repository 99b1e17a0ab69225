"""Codebooks: coefficients of unit variance are rounded to the nearest of a few levels; the level numbers are packed.

Each coefficient has levels of its own. They have the smallest squared error on a normal distribution (Lloyd 1982, Max 1960):
with 2 bits a ninth of the variance is lost, while equal steps over four standard deviations lose a third.

Axes: N rows, R coefficients, L levels of the widest coefficient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from logitstore.core.types import Array
from logitstore.format.codecs.arrays import beside, library
from logitstore.format.codecs.bits import Bits

MOST_BITS = 8


@dataclass(frozen=True, eq=False)
class Codebook:
    """Codec of R coefficients per row, in `widths` bits each.

    Attributes:
        widths: count of bits of every coefficient.
        levels_RL: float32, rising; coefficient j has its first 2 ** widths[j] levels.
    """

    widths: tuple[int, ...]
    levels_RL: Array

    @cached_property
    def packing(self) -> Bits:
        """The bit packing of the level numbers."""
        return Bits(self.widths)

    @cached_property
    def _offsets_R(self) -> Array:
        """Array with the place of every coefficient's first level among all levels."""
        return np.arange(0, self.levels_RL.size, self.levels_RL.shape[1])

    def encode(self, coefficients_NR: Array) -> Array:
        """Return the packed numbers of the nearest levels, uint8[N, B]."""
        coefficients_RN = np.ascontiguousarray(coefficients_NR.T)
        numbers_RN = np.empty(coefficients_RN.shape, np.int64)
        for place, width in enumerate(self.widths):
            levels = self.levels_RL[place, : 1 << width]
            numbers_RN[place] = np.searchsorted((levels[1:] + levels[:-1]) / 2, coefficients_RN[place])
        return self.packing.encode(numbers_RN.T)

    def decode(self, stored_NB: Any) -> Any:
        """Return the levels of the coefficients, float32[N, R]."""
        numbers_NR = self.packing.decode(stored_NB)
        levels_RL = beside(self.levels_RL, stored_NB)
        return library(levels_RL).ravel(levels_RL)[numbers_NR + beside(self._offsets_R, stored_NB)]


def normal_codebook(widths: tuple[int, ...]) -> Codebook:
    """Return the codebook for normal coefficients of unit variance."""
    widest = 1 << max(widths)
    levels_RL = np.zeros((len(widths), widest), np.float32)
    for place, width in enumerate(widths):
        levels, _ = lloyd_max(width)
        levels_RL[place] = np.pad(levels, (0, widest - len(levels)), mode="edge")
    return Codebook(widths, levels_RL)


@cache
def lloyd_max(bits: int) -> tuple[Array, float]:
    """Return the levels of the best quantiser of a standard normal, and the share of the variance that it loses.

    Newton's method solves the conditions of Max (1960): every level is the mean of its cell, and every border lies half-way
    between two levels.
    """
    if bits == 0:
        return np.zeros(1, np.float32), 1.0
    normal = NormalDist()
    count = 1 << bits
    # Panter and Dite: the best levels have the density of the cube root of the normal density, which is normal again
    levels = np.array([normal.inv_cdf((place + 0.5) / count) * np.sqrt(3) for place in range(count)])
    for _ in range(200):
        means, mass, density = _cells(levels)
        residual = levels - means
        if np.abs(residual).max() < 1e-13:
            break
        levels = levels - np.linalg.solve(_jacobian(levels, means, mass, density), residual)
    levels = (levels - levels[::-1]) / 2
    means, mass, _ = _cells(levels)
    return levels.astype(np.float32), float(1 - (mass * means**2).sum())


def _cells(levels: Array) -> tuple[Array, Array, Array]:
    """Return mean and mass of every cell of a standard normal, and its density at all borders, infinite ones included."""
    normal = NormalDist()
    borders = (levels[1:] + levels[:-1]) / 2
    density = np.concatenate([[0.0], np.exp(-(borders**2) / 2) / np.sqrt(2 * np.pi), [0.0]])
    below = np.concatenate([[0.0], [normal.cdf(border) for border in borders], [1.0]])
    mass = np.diff(below)
    return (density[:-1] - density[1:]) / mass, mass, density


def _jacobian(levels: Array, means: Array, mass: Array, density: Array) -> Array:
    """Return the derivatives of (level - mean of its cell) by every level; a border moves by half of each neighbour's move."""
    borders = (levels[1:] + levels[:-1]) / 2
    count = len(levels)
    by_level = np.eye(count)
    for place, border in enumerate(borders):
        left, right = place, place + 1
        grows = density[place + 1] * (border - means[left]) / mass[left] / 2
        shrinks = density[place + 1] * (means[right] - border) / mass[right] / 2
        for neighbour in (left, right):
            by_level[left, neighbour] -= grows
            by_level[right, neighbour] -= shrinks
    return by_level
