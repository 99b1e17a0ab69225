"""The prior tail: one vector per cache that says how the mass outside the listed ids is usually spread.

It is the mean over pilot rows of the teacher's distribution with the listed entries taken out, so rows with a heavy tail
count for more; among all fixed vectors pi this one makes the mass-weighted KL of the tails smallest. A millionth of uniform
is mixed in, so that no token that can come has no mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_SHARE = 1e-6


class PriorFit:
    """Sums the tails of pilot rows in float64."""

    def __init__(self, vocabulary: int) -> None:
        self._sum_V = torch.zeros(vocabulary, dtype=torch.float64)
        self.rows = 0

    def add(self, logits_NV: Tensor, ids_NK: Tensor) -> None:
        """Count rows whose listed ids are `ids_NK`; `logits_NV` may have padding columns beyond the vocabulary."""
        probs_NV = torch.softmax(logits_NV[:, : len(self._sum_V)].float(), -1)
        self._sum_V += probs_NV.scatter_(1, ids_NK, 0.0).sum(0).cpu().double()
        self.rows += len(logits_NV)

    def vector(self) -> Tensor:
        """float32[V], positive, summing to one."""
        total = self._sum_V.sum()
        size = len(self._sum_V)
        mean_V = self._sum_V / total if total > 0 else torch.full_like(self._sum_V, 1 / size)
        return ((1 - UNIFORM_SHARE) * mean_V + UNIFORM_SHARE / size).float()
