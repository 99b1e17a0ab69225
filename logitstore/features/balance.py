"""A weight that makes one loss as large as another, step by step."""

from __future__ import annotations

import torch
from torch import Tensor


def balanced_weight(main: Tensor, other: Tensor) -> Tensor:
    """alpha = main / other, so that main + alpha * other has two equal halves (Minitron, Muralidharan et al. 2024, section 3).

    Args:
        main, other: losses of a batch, any shape, both the same.

    Returns:
        without a gradient and never below 0, so that nothing is ever pushed away; 0 where the quotient is not finite, as where
        `other` is 0.
    """
    ratio = main.detach() / other.detach()
    return torch.where(ratio.isfinite(), ratio, 0.0).clamp(min=0)
