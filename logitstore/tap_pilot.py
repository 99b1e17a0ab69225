"""What all rows of a tap share, fitted on a pilot: the statistics of the channels, or their principal directions.

Axes: N rows, D channels, R directions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.pilot import floored
from logitstore.tap_info import directions_of


class Moments:
    """Sums over rows from which mean, deviation and directions follow, in float64, whatever the number of rows.

    Args:
        width: D.
        directions: R, 0 where the products of channels with each other are not needed.
    """

    def __init__(self, width: int, directions: int) -> None:
        self.rows, self._directions = 0, directions
        self._sum_D = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width if directions else 1, dtype=torch.float64).squeeze(1)

    @classmethod
    def of(cls, codec: str, width: int) -> Moments:
        """Those that a codec needs."""
        return cls(width, directions_of(codec))

    def add(self, values_ND: Tensor) -> None:
        """Count some more rows, float32."""
        wide_ND = values_ND.double()
        self.rows += len(wide_ND)
        self._sum_D += wide_ND.sum(0)
        self._products += wide_ND.T @ wide_ND if self._directions else wide_ND.square().sum(0)

    def shared(self) -> dict[str, Tensor]:
        """The arrays of the tap's shared file (docs/format.md, "taps/")."""
        mean_D = self._sum_D / self.rows
        if not self._directions:
            deviation_D = (self._products / self.rows - mean_D.square()).clamp(min=0).sqrt()
            return {"mean": mean_D.float(), "std": floored(deviation_D.float())}
        covariance_DD = self._products / self.rows - mean_D[:, None] * mean_D
        _, vectors_DD = torch.linalg.eigh(covariance_DD)
        directions_RD = vectors_DD.flip(1)[:, : self._directions].T
        # either sign would do; the largest entry is positive, so that the same rows give the same bytes
        largest_R1 = directions_RD.gather(1, directions_RD.abs().argmax(1, keepdim=True))
        return {"mean": mean_D.float(), "directions": (directions_RD * largest_R1.sign()).float().contiguous()}
