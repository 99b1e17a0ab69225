"""Compare how similar the rows of a sample are to each other, on both sides; needs neither equal widths nor a projection.

Axes: N rows, M samples, T rows of the longest sample, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import hidden_pairs
from logitstore.train.objectives.features.padding import Padding


class Similarity(FeatureObjective):
    """Compute mean_j (cos(s_i, s_j) - cos(t_i, t_j))**2 over the rows j of row i's sample (MLKD-OOD, Wu et al. 2023).

    Row i itself is included; its term is 0. The loss is the mean over pairs of layers.

    Args:
        shapes: shapes of both models.
        layers: as in `layer_pairs`.

    Raises:
        BadInput: a layer is not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "uniform") -> None:
        super().__init__()
        self.names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "uniform", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        padding = Padding.of(sides.counts_M)
        counts_M1 = sides.counts_M.clamp(min=1)[:, None]
        terms = []
        for student_name, teacher_name in self.names:
            apart_MTT = _cosines(padding.pad(sides.student[student_name])) - _cosines(
                padding.pad(sides.teacher[teacher_name])
            )
            terms.append(padding.rows(apart_MTT.square().sum(-1) / counts_M1))
        return torch.stack(terms).mean(0)


def _cosines(rows_MTD: Tensor) -> Tensor:
    """Return [M, T, T]; 0 where one of the two rows is 0."""
    unit_MTD = torch.nn.functional.normalize(rows_MTD, dim=-1)
    return unit_MTD @ unit_MTD.mT
