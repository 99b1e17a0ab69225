"""Any differentiable losses of rows as one loss with its gradient, for what has no closed form of its own.

Axes: N rows (n of a chunk), L losses, V the student's vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.train.objectives.kernels.weighted_sum import Weights


@dataclass(frozen=True)
class Term:
    """weight * loss per row.

    Attributes:
        name: in the log.
        weight: in the sum.
        loss: is given logits of some rows and which of all rows those are.
        together: rows that `loss` compares with each other and is given at a time; 0 where each stands alone.
    """

    name: str
    weight: float
    loss: Callable[[Tensor, slice], Tensor]
    together: int = 0

    def __call__(self, logits_nV: Tensor, some: slice) -> Tensor:
        """The loss of a chunk of rows, which begins where a group of those that go together does."""
        count = len(logits_nV)
        size = self.together or max(count, 1)
        groups = [slice(first, min(first + size, count)) for first in range(0, max(count, 1), size)]
        return torch.cat(
            [self.loss(logits_nV[own], slice(some.start + own.start, some.start + own.stop)) for own in groups]
        )


@dataclass(frozen=True)
class ByAutograd:
    """sum_l weight_l loss_l per row, differentiated by PyTorch while a chunk is at hand; takes the place of `WeightedSum`.

    Where rows are compared with each other, the gradient by one row's logits is that of every row's loss, so the weights of the
    rows belong into the sum that is differentiated.
    """

    terms: Sequence[Term]

    @property
    def names(self) -> list[str]:
        """Of the lines after the first."""
        return [term.name for term in self.terms]

    @property
    def together(self) -> int | None:
        """The least rows of a chunk that keeps every term's groups whole; None where each row stands alone."""
        return math.lcm(*sizes) if (sizes := [term.together for term in self.terms if term.together]) else None

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights = 1.0) -> Tensor:
        with torch.enable_grad():
            leaf_nV = logits_nV.clone().requires_grad_()
            losses = [term(leaf_nV, some) for term in self.terms]
            weighted = [term.weight * loss_n for term, loss_n in zip(self.terms, losses, strict=True)]
            total_n = torch.stack(weighted).sum(0)
            weights_n = torch.as_tensor(scale, dtype=total_n.dtype, device=total_n.device).expand_as(total_n)
            (gradient_nV,) = torch.autograd.grad(total_n, leaf_nV, weights_n)
        logits_nV.copy_(gradient_nV)
        return torch.stack([total_n.detach(), *(loss_n.detach() for loss_n in losses)])
