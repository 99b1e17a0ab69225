"""Hidden states pulled onto the teacher's, channel by channel or in their direction.

Axes: N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.features.layer_map import hidden_pairs
from logitstore.features.projection import Projections


class Match(FeatureObjective):
    """The mean over pairs of layers of one of:

        mse       mean over channels of (P s - t)**2    (Minitron, Muralidharan et al. 2024, section 3: L_is)
        cosine    1 - <P s, t> / (|P s| |t|)            (as DistilBERT, Sanh et al. 2019, section 3, without P)

    with the student's hidden state s, the teacher's t, and a learned linear map P of each pair.

    Args:
        shapes: of both models.
        layers: as in `layer_pairs`.
        kind: "mse" or "cosine".
        project: "auto" leaves P out where both widths are the same; "always" does not.

    Raises:
        BadInput: another kind or project, or layers that are not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "uniform", kind: str = "mse", project: str = "auto") -> None:
        super().__init__()
        if kind not in ("mse", "cosine"):
            raise BadInput(f"kind '{kind}': write mse or cosine.")
        if project not in ("auto", "always"):
            raise BadInput(f"project '{project}': write auto, or always to project equal widths too.")
        self.kind = kind
        names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        self.projections = Projections(shapes, names, always=project == "always")

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "uniform", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        distance = _square if self.kind == "mse" else _angle
        return torch.stack([distance(own, other) for own, other in self.projections(sides)]).mean(0)


def _square(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return (student_ND - teacher_ND).square().mean(-1)


def _angle(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return 1 - torch.cosine_similarity(student_ND, teacher_ND, dim=-1)
