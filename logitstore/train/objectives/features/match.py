"""Hidden states pulled onto the teacher's, channel by channel or in their direction.

Axes: N rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, normalize, smooth_l1_loss

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import hidden_pairs
from logitstore.train.objectives.features.projection import Projections


class Match(FeatureObjective):
    """The mean over pairs of layers of one of:

        mse       mean over channels of (P s - t)**2    (Minitron, Muralidharan et al. 2024, section 3: L_is)
        cosine    1 - <P s, t> / (|P s| |t|)            (as DistilBERT, Sanh et al. 2019, section 3, without P)
        l1        mean over channels of |P s - t|       (DMAE, Bai et al. 2023, section 3)
        huber     the same of Huber's loss where the slope is 1 from |P s - t| = 2 on   (G2SD, Huang et al. 2023, section 3.2)

    with the student's hidden state s, the teacher's t, and a learned linear map P of each pair.

    Args:
        shapes: of both models.
        layers: as in `layer_pairs`.
        kind: one of the four.
        project: "auto" leaves P out where both widths are the same; "always" does not.
        norm: "teacher" takes t less its mean over channels and over its deviation, "both" takes P s and t over their
            lengths; "none" leaves them as they are.

    Raises:
        BadInput: another kind, project or norm, or layers that are not there.
    """

    def __init__(
        self, shapes: Shapes, *, layers: str = "uniform", kind: str = "mse", project: str = "auto", norm: str = "none"
    ) -> None:
        super().__init__()
        if kind not in _DISTANCES:
            raise BadInput(f"kind '{kind}': write mse, cosine, l1 or huber.")
        if norm not in ("none", "teacher", "both"):
            raise BadInput(f"norm '{norm}': write none, teacher or both.")
        if project not in ("auto", "always"):
            raise BadInput(f"project '{project}': write auto, or always to project equal widths too.")
        self.kind, self.norm = kind, norm
        names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        self.projections = Projections(shapes, names, always=project == "always")

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "uniform", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        distance = _DISTANCES[self.kind]
        return torch.stack([distance(*self._normed(own, other)) for own, other in self.projections(sides)]).mean(0)

    def _normed(self, student_ND: Tensor, teacher_ND: Tensor) -> tuple[Tensor, Tensor]:
        if self.norm == "teacher":
            return student_ND, layer_norm(teacher_ND, teacher_ND.shape[-1:])
        if self.norm == "both":
            return normalize(student_ND, dim=-1), normalize(teacher_ND, dim=-1)
        return student_ND, teacher_ND


def _square(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return (student_ND - teacher_ND).square().mean(-1)


def _angle(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return 1 - torch.cosine_similarity(student_ND, teacher_ND, dim=-1)


def _absolute(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return (student_ND - teacher_ND).abs().mean(-1)


def _huber(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    return smooth_l1_loss(student_ND, teacher_ND, reduction="none", beta=2.0).mean(-1)


_DISTANCES = {"mse": _square, "cosine": _angle, "l1": _absolute, "huber": _huber}


class SquareHead(FeatureObjective):
    """The sum over pairs of layers of MSE(s, t) / (MSE(t, 0) + eps) (Kurtic et al. 2023).

    Both errors are means over the rows that count and their channels. The denominator is one number for the batch, the
    numerator each row's own, so the mean over the rows that count is the paper's value. The default eps is the authors'
    (IST-DASLab/SparseFinetuning, scripts/train): the rounding of bfloat16, 2**-7.

    Args:
        shapes: of both models; where widths differ, a learned linear map takes s to the teacher's.
        layers: as in `layer_pairs`.
        eps: keeps the quotient finite where the teacher's states are 0.

    Raises:
        BadInput: layers that are not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "all", eps: float = 2**-7) -> None:
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
