"""The loss of rows that the teacher answered, and behind them that of positions with a gold token alone, in one pass.

Axes: n rows of a chunk, L lines of the loss, V the student's vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.train.objectives.kernels.by_autograd import ByAutograd
from logitstore.train.objectives.kernels.weighted_sum import WeightedSum, Weights


@dataclass(frozen=True, kw_only=True)
class Beside:
    """A `RowLoss` of two kinds of row.

    Attributes:
        answered: of the first rows.
        rows: count of these.
        gold: of the rows after them; its terms are some of the terms of `answered`.
    """

    answered: WeightedSum | ByAutograd
    rows: int
    gold: WeightedSum

    @property
    def together(self) -> int | None:
        """As of the answered rows; a chunk in which they end is cut there."""
        return self.answered.together

    @property
    def names(self) -> list[str]:
        """Of the lines after the first."""
        return self.answered.names

    def __call__(self, logits_nV: Tensor, some: slice, scale: Weights = 1.0) -> Tensor:
        cut = min(max(self.rows - some.start, 0), len(logits_nV))
        before, behind = (scale[:cut], scale[cut:]) if isinstance(scale, Tensor) else (scale, scale)
        if cut == len(logits_nV):
            return self.answered(logits_nV, some, scale)
        first = max(some.start - self.rows, 0)
        own_Ln = self.gold(logits_nV[cut:], slice(first, first + len(logits_nV) - cut), behind)
        lines_Ln = own_Ln.new_zeros(1 + len(self.names), own_Ln.shape[1])
        lines_Ln[[0, *(1 + self.names.index(name) for name in self.gold.names)]] = own_Ln
        if not cut:
            return lines_Ln
        return torch.cat(
            [self.answered(logits_nV[:cut], slice(some.start, some.start + cut), before), lines_Ln.to(own_Ln.dtype)], 1
        )
