"""MiniLM v2: compare how the rows of a sample relate by queries, by keys and by values, split into any number of heads.

The relation of a row is a distribution over the rows that it sees: the softmax of its dot products with them. Only
positions that have a row take part.

Axes: N rows, M samples, T rows of the longest sample, H heads, C channels of a head.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import attention_pairs
from logitstore.train.objectives.features.padding import Padding

HIDDEN = -1e30
"""Stands for the score of a row that is not seen; finite, so that 0 times it is 0."""


class Relations(FeatureObjective):
    """Compute KL(teacher || student) of the relations QQ, KK and VV, the three added up.

    The method is MiniLMv2's (Wang et al. 2021, section 3.1).

    Queries, keys and values are cut into the same number of relation heads on both sides, whatever the models' own heads
    and widths are. A row's KL is the mean over relation heads, then over pairs of layers.

    The paper pulls the student's last layer towards the teacher's last (of 12) or towards an upper middle one (21 of 24).

    Args:
        shapes: shapes of both models.
        layers: as in `layer_pairs`.
        relation_heads: number of relation heads; None takes as many as the teacher has query heads, or the next smaller
            number that divides all widths.
        causal: whether a row sees only the rows of its sample up to itself, instead of all of them; None as the teacher does.

    Raises:
        BadInput: the number of heads does not divide a width or is not known, or a layer is not there.
    """

    def __init__(
        self, shapes: Shapes, *, layers: str = "last-1", relation_heads: int | None = None, causal: bool | None = None
    ) -> None:
        super().__init__()
        self.causal = shapes.causal if causal is None else causal
        self.names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        self.relation_heads = _relation_heads(shapes, self.names, relation_heads)

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "last-1", **_others: Any) -> list[Pair]:
        return attention_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        padding = Padding.of(sides.counts_M)
        seen_MTT = padding.seen(self.causal)
        terms = []
        for student_name, teacher_name in self.names:
            student_MTHC = padding.pad(split(sides.student[student_name], self.relation_heads))
            teacher_MTHC = padding.pad(split(sides.teacher[teacher_name], self.relation_heads))
            student_MHTT = relation(student_MTHC, student_MTHC, seen_MTT)
            teacher_MHTT = relation(teacher_MTHC, teacher_MTHC, seen_MTT)
            terms.append(padding.rows(relation_kl(teacher_MHTT, student_MHTT)))
        # the three terms of a layer are added up, layers are averaged
        return 3 * torch.stack(terms).mean(0)


def split(rows_ND: Tensor, heads: int) -> Tensor:
    """Return [N, H, C] from heads side by side."""
    return rows_ND.view(len(rows_ND), heads, rows_ND.shape[1] // heads)


def scores(left_MTHC: Tensor, right_MTHC: Tensor) -> Tensor:
    """Return left right' / sqrt(C), [M, H, T, T]."""
    return torch.einsum("mqhc,mkhc->mhqk", left_MTHC / math.sqrt(left_MTHC.shape[-1]), right_MTHC)


def relation(left_MTHC: Tensor, right_MTHC: Tensor, seen_MTT: Tensor) -> Tensor:
    """Return log softmax(left right' / sqrt(C)) over the rows that are seen, [M, H, T, T]; about -1e30 at the others."""
    return scores(left_MTHC, right_MTHC).masked_fill(~seen_MTT[:, None], HIDDEN).log_softmax(-1)


def relation_kl(teacher_MHTT: Tensor, student_MHTT: Tensor) -> Tensor:
    """Return KL(teacher || student) of logprobs, averaged over heads, [M, T]."""
    return (teacher_MHTT.exp() * (teacher_MHTT - student_MHTT)).sum(-1).mean(1)


def _relation_heads(shapes: Shapes, names: list[Pair], asked: int | None) -> int:
    widths = {f"the student's {name}": shapes.widths_student[name] for name, _ in names}
    widths |= {f"the teacher's {name}": shapes.widths_teacher[name] for _, name in names}
    common = math.gcd(*widths.values())
    if asked is None:
        if shapes.heads_teacher < 1:
            raise BadInput("relation heads: the teacher does not say how many heads it has. Give relation_heads.")
        return max(heads for heads in range(1, shapes.heads_teacher + 1) if common % heads == 0)
    if asked < 1 or common % asked:
        name, width = next(each for each in widths.items() if asked < 1 or each[1] % asked)
        fitting = ", ".join(str(heads) for heads in range(1, common + 1) if common % heads == 0)
        raise BadInput(f"relation_heads {asked}: {name} has {width} channels. Give one of {fitting}.")
    return asked
