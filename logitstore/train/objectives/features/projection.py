"""Map features from the student's widths to the teacher's by learned linear maps.

Axes: N rows, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from logitstore.train.objectives.features.feature import Pair, Shapes, Sides


class Projections(nn.Module):
    """Projections are one linear map without a bias for each pair of features.

    Args:
        shapes: shapes with the widths of all these features.
        names: the pairs.
        always: whether to map features of equal widths too; otherwise they are compared as they are.
    """

    def __init__(self, shapes: Shapes, names: Sequence[Pair], *, always: bool = False) -> None:
        super().__init__()
        self.names = list(names)
        self.maps = nn.ModuleList()
        for student_name, teacher_name in self.names:
            narrow, wide = shapes.widths_student[student_name], shapes.widths_teacher[teacher_name]
            self.maps.append(Linear(narrow, wide, bias=False) if always or narrow != wide else nn.Identity())

    def forward(self, sides: Sides) -> list[tuple[Tensor, Tensor]]:
        """Return the student's and the teacher's features pair by pair, both [N, D] with the teacher's width."""
        return [
            (linear(sides.student[student_name]), sides.teacher[teacher_name])
            for linear, (student_name, teacher_name) in zip(self.maps, self.names, strict=True)
        ]


class Linear(nn.Linear):
    """Compute a linear layer in the dtype of its input, whatever the dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return torch.nn.functional.linear(input, self.weight.to(input.dtype), bias)
