"""Add up sums over rows, of a size that does not depend on their number; mean, deviation and principal directions of the
channels follow from the sums.

Axes: N rows, D channels, R directions.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Moments:
    """Moments are sums in float64: of the channels, and of their squares or of the products of all channels with each
    other.

    Args:
        width: number of channels, D.
        has_products: whether directions are needed.
    """

    def __init__(self, width: int, *, has_products: bool) -> None:
        self.rows, self._has_products = 0, has_products
        self._sum_D = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width if has_products else 1, dtype=torch.float64).squeeze(1)

    def add(self, values_ND: Tensor) -> None:
        """Add some more rows, float32."""
        wide_ND = values_ND.double()
        self.rows += len(wide_ND)
        self._sum_D += wide_ND.sum(0)
        self._products += wide_ND.T @ wide_ND if self._has_products else wide_ND.square().sum(0)

    @property
    def mean_D(self) -> Tensor:
        """float64[D], the mean of each channel."""
        return self._sum_D / self.rows

    @property
    def deviation_D(self) -> Tensor:
        """float64[D], the deviation of each channel over all rows; needs sums without products."""
        return (self._products / self.rows - self.mean_D.square()).clamp(min=0).sqrt()

    def directions(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the directions of most variance, float64[R, D], and their variances, float64[R], falling; needs sums with
        products."""
        mean_D = self.mean_D
        variance_D, vectors_DD = torch.linalg.eigh(self._products / self.rows - mean_D[:, None] * mean_D)
        directions_RD = vectors_DD.flip(1)[:, :count].T
        # the sign is arbitrary; the largest entry is made positive, so that the same rows give the same bytes
        largest_R1 = directions_RD.gather(1, directions_RD.abs().argmax(1, keepdim=True))
        return directions_RD * largest_R1.sign(), variance_D.flip(0)[:count].clamp(min=0)
