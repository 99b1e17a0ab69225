"""Any differentiable losses of rows as one loss with its gradient, for what has no closed form of its own.

Axes: N rows (n of a chunk), L losses, V the student's vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """weight * loss per row; `loss` is given logits of some rows and which of all rows those are."""

    name: str
    weight: float
    loss: Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class ByAutograd:
    """sum_l weight_l loss_l per row, differentiated by PyTorch while a chunk is at hand; takes the place of `WeightedSum`."""

    terms: Sequence[Term]

    @property
    def names(self) -> list[str]:
        """Of the lines after the first."""
        return [term.name for term in self.terms]

    def __call__(self, logits_nV: Tensor, some: slice, scale: float = 1.0) -> Tensor:
        with torch.enable_grad():
            leaf_nV = logits_nV.clone().requires_grad_()
            losses = [term.loss(leaf_nV, some) for term in self.terms]
            weighted = [term.weight * loss_n for term, loss_n in zip(self.terms, losses, strict=True)]
            total_n = torch.stack(weighted).sum(0)
            (gradient_nV,) = torch.autograd.grad(total_n.sum(), leaf_nV)
        torch.mul(gradient_nV, scale, out=logits_nV)
        return torch.stack([total_n.detach(), *(loss_n.detach() for loss_n in losses)])
