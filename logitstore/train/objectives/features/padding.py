"""Put rows of samples of different lengths into one rectangle, so that comparing rows within a sample needs no loop.

Axes: N rows, M samples, T rows of the longest sample.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Padding:
    """A padding says where the rows of each sample are in the rectangle.

    Attributes:
        is_row_MT: bool, the places that hold a row; those of a sample come first.
    """

    is_row_MT: Tensor

    @classmethod
    def of(cls, counts_M: Tensor) -> Padding:
        """Return the padding of samples with these numbers of rows."""
        longest = int(counts_M.max()) if len(counts_M) else 0
        return cls(torch.arange(longest, device=counts_M.device) < counts_M[:, None])

    def pad(self, rows: Tensor) -> Tensor:
        """Return [M, T, ...] from [N, ...], 0 where there is no row."""
        places_N = self.is_row_MT.flatten().nonzero().squeeze(1)
        flat = rows.new_zeros(self.is_row_MT.numel(), *rows.shape[1:]).index_copy(0, places_N, rows)
        return flat.view(*self.is_row_MT.shape, *rows.shape[1:])

    def rows(self, padded: Tensor) -> Tensor:
        """Return [N, ...] from [M, T, ...]: the inverse of `pad`."""
        return padded[self.is_row_MT]

    def seen(self, causal: bool) -> Tensor:
        """Return bool[M, T, T]: the rows (last axis) that each row sees.

        Args:
            causal: whether a row sees only rows up to itself, instead of all rows of its sample.

        Returns:
            a place without a row sees itself too, so that no place sees nothing.
        """
        itself_TT = torch.eye(self.is_row_MT.shape[1], dtype=torch.bool, device=self.is_row_MT.device)
        seen_MTT = self.is_row_MT[:, None, :] | itself_TT
        return seen_MTT.tril() if causal else seen_MTT
