"""Learned linear maps from the student's widths to the teacher's.

Axes: N rows, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from logitstore.features.feature import Pair, Shapes, Sides


class Projections(nn.Module):
    """One linear map without a bias for each pair of features.

    Args:
        shapes: with the widths of all of them.
        names: the pairs.
        always: also where both widths are the same; otherwise such features are compared as they are.
    """

    def __init__(self, shapes: Shapes, names: Sequence[Pair], *, always: bool = False) -> None:
        super().__init__()
        self.names = list(names)
        self.maps = nn.ModuleList()
        for own, other in self.names:
            narrow, wide = shapes.widths_student[own], shapes.widths_teacher[other]
            self.maps.append(Linear(narrow, wide, bias=False) if always or narrow != wide else nn.Identity())

    def forward(self, sides: Sides) -> list[tuple[Tensor, Tensor]]:
        """Student and teacher, both [N, D] with the teacher's width, pair by pair."""
        return [
            (own_map(sides.student[own]), sides.teacher[other])
            for own_map, (own, other) in zip(self.maps, self.names, strict=True)
        ]


class Linear(nn.Linear):
    """A linear layer that computes in the dtype of its input, whatever the dtype of its weights."""

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return torch.nn.functional.linear(input, self.weight.to(input.dtype), bias)
