"""ProC-KD: describe states of tokens or patches by prototypes, which are learnt from the teacher's.

Axes: N rows, K prototypes, D channels of the teacher.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import hidden_pairs
from logitstore.train.objectives.features.projection import Projections


class Prototypes(FeatureObjective):
    """Compute, per row and averaged over pairs of layers, (after ProC-KD, Li et al. 2022)

        sum_d (t - sum_k a_k(t) c_k)_d^2 + weight KL(a(t), a(P s)),   a(x) = softmax_k(<x, c_k> / (|x| |c_k| tau))

    with the teacher's state t of length 1, the student's s, a learned linear map P and K learned prototypes c_k of length 1.
    The first term teaches the prototypes to describe the teacher's states; the second, through which no prototype learns,
    teaches the student to be described alike.

    Args:
        shapes: shapes of both models.
        layers: as in `layer_pairs`.
        count: K.
        weight: of the second term.
        tau: temperature of the attention to prototypes.
        seed: of the first prototypes.

    Raises:
        BadInput: count or tau is not above 0, or a layer is not there.
    """

    def __init__(
        self,
        shapes: Shapes,
        *,
        layers: str = "last-1",
        count: int = 64,
        weight: float = 1.0,
        tau: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("count", count), ("tau", tau)):
            if value <= 0:
                raise BadInput(f"{name} {value:g}: give a number above 0.")
        self.weight, self.tau = weight, tau
        names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        self.projections = Projections(shapes, names)
        draw = torch.Generator().manual_seed(seed)
        widths = [shapes.widths_teacher[other] for _, other in names]
        self.prototypes = nn.ParameterList(torch.randn(count, width, generator=draw) for width in widths)

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "last-1", **_others: Any) -> list[Pair]:
        return hidden_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        terms = []
        for prototypes_KD, (student_ND, teacher_ND) in zip(self.prototypes, self.projections(sides), strict=True):
            own_KD = normalize(prototypes_KD.to(teacher_ND.dtype), dim=-1)
            unit_ND = normalize(teacher_ND, dim=-1)
            described_NK = self._attention(unit_ND, own_KD)
            apart_N = (unit_ND - described_NK.exp() @ own_KD).square().sum(-1)
            target_NK = described_NK.detach()
            student_NK = self._attention(normalize(student_ND, dim=-1), own_KD.detach())
            terms.append(apart_N + self.weight * (target_NK.exp() * (target_NK - student_NK)).sum(-1))
        return torch.stack(terms).mean(0)

    def _attention(self, unit_ND: Tensor, own_KD: Tensor) -> Tensor:
        """Return the logprobs of the prototypes, [N, K]."""
        return (unit_ND @ own_KD.T / self.tau).log_softmax(-1)
