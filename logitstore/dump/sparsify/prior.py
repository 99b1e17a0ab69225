"""The prior tail: one vector per cache, the usual shape of the mass outside the listed ids.

It is the mean, over the pilot rows, of the teacher's distribution without the listed entries. So rows with a heavy tail have
more weight. Among all fixed vectors, this one has the smallest mass-weighted KL of the tails. A millionth of the uniform
distribution is mixed in, so that every possible token has some mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_SHARE = 1e-6


def prior_of(mean_tail_V: Tensor) -> Tensor:
    """Return the prior, float32[V], positive, with sum 1.

    Args:
        mean_tail_V: float64[V], the mean or the sum of the unlisted probabilities over the pilot rows.
    """
    total = mean_tail_V.sum()
    size = len(mean_tail_V)
    shares_V = mean_tail_V / total if total > 0 else torch.full_like(mean_tail_V, 1 / size)
    return ((1 - UNIFORM_SHARE) * shares_V + UNIFORM_SHARE / size).float()
