"""The prior tail: one vector per cache that says how the mass outside the listed ids is usually spread.

It is the mean over pilot rows of the teacher's distribution with the listed entries taken out, so rows with a heavy tail
count for more; among all fixed vectors pi this one makes the mass-weighted KL of the tails smallest. A millionth of uniform
is mixed in, so that no token that can come has no mass.
"""

from __future__ import annotations

import torch
from torch import Tensor

UNIFORM_SHARE = 1e-6


def prior_of(mean_tail_V: Tensor) -> Tensor:
    """float32[V], positive, summing to one.

    Args:
        mean_tail_V: float64[V], the mean of the unlisted probabilities.
    """
    total = mean_tail_V.sum()
    size = len(mean_tail_V)
    shares_V = mean_tail_V / total if total > 0 else torch.full_like(mean_tail_V, 1 / size)
    return ((1 - UNIFORM_SHARE) * shares_V + UNIFORM_SHARE / size).float()
