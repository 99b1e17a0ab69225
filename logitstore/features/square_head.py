"""SquareHead: the error of every layer's hidden state, measured by the size of the teacher's.

Axes: N rows, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.features.layer_map import hidden_pairs
from logitstore.features.projection import Projections


class SquareHead(FeatureObjective):
    """The sum over pairs of layers of MSE(s, t) / (MSE(t, 0) + eps) (Kurtic et al. 2023).

    Both errors are means over the rows that count and their channels. The denominator is one number for the batch, the
    numerator each row's own, so the mean over the rows that count is the paper's value.

    Args:
        shapes: of both models; where widths differ, a learned linear map takes s to the teacher's.
        layers: as in `layer_pairs`.
        eps: keeps the quotient finite where the teacher's states are 0.

    Raises:
        BadInput: layers that are not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "all", eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.projections = Projections(shapes, self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers))

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "all", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        shares = [
            (student_ND - teacher_ND).square().mean(-1) / (teacher_ND.square().mean() + self.eps)
            for student_ND, teacher_ND in self.projections(sides)
        ]
        return torch.stack(shares).sum(0)
