"""Sums over rows from which mean, deviation and principal directions of their channels follow, whatever the number of rows.

Axes: N rows, D channels, R directions.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Sums in float64: of the channels, and of their squares or of the products of all with each other.

    Args:
        width: D.
        has_products: whether directions will be asked for.
    """

    def __init__(self, width: int, *, has_products: bool) -> None:
        self.rows, self._has_products = 0, has_products
        self._sum_D = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width if has_products else 1, dtype=torch.float64).squeeze(1)

    def add(self, values_ND: Tensor) -> None:
        """Count some more rows, float32."""
        wide_ND = values_ND.double()
        self.rows += len(wide_ND)
        self._sum_D += wide_ND.sum(0)
        self._products += wide_ND.T @ wide_ND if self._has_products else wide_ND.square().sum(0)

    @property
    def mean_D(self) -> Tensor:
        """float64."""
        return self._sum_D / self.rows

    @property
    def deviation_D(self) -> Tensor:
        """float64, over all rows; of sums without products."""
        return (self._products / self.rows - self.mean_D.square()).clamp(min=0).sqrt()

    def directions(self, count: int) -> tuple[Tensor, Tensor]:
        """The directions of most variance, float64[R, D], and that variance, float64[R], falling; of sums with products."""
        mean_D = self.mean_D
        variance_D, vectors_DD = torch.linalg.eigh(self._products / self.rows - mean_D[:, None] * mean_D)
        directions_RD = vectors_DD.flip(1)[:, :count].T
        # either sign would do; the largest entry is positive, so that the same rows give the same bytes
        largest_R1 = directions_RD.gather(1, directions_RD.abs().argmax(1, keepdim=True))
        return directions_RD * largest_R1.sign(), variance_D.flip(0)[:count].clamp(min=0)
