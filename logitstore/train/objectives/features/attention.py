"""MiniLM: pull the student towards the teacher's attention, and towards the relations of its values, head by head.

Axes: N rows, M samples, T rows of the longest sample, H query heads, G key heads, C channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.layer_map import attention_pairs
from logitstore.train.objectives.features.padding import Padding
from logitstore.train.objectives.features.relations import relation, relation_kl, scores, split


class Attention(FeatureObjective):
    """Compute KL(teacher || student) of the attention and of the value relation, added up.

    The method is MiniLM's (Wang et al. 2020, section 3).

    The attention of a head is softmax(Q K' / sqrt(C)); its value relation is softmax(V V' / sqrt(C)). A row's KL is the
    mean over heads, then over pairs of layers. Where query heads share keys and values, each query head is used with those
    it shares.

    Attention is computed among the positions that have a row, with the scale above, for both models. A model with another
    scale, a window, a soft cap or sinks attends in another way itself.

    With kind "scores" it is TinyBERT's in place of both (Jiao et al. 2020, section 3.2): the squared error of the scores
    Q K' / sqrt(C), the mean over the rows that are seen.

    Args:
        shapes: shapes of both models, including their heads.
        layers: as in `layer_pairs`.
        kind: "kl" or "scores".
        causal: whether a row sees only the rows of its sample up to itself, instead of all of them; None as the teacher does.

    Raises:
        BadInput: another kind, the models do not have the same number of query heads, heads do not divide a width, or a layer
            is not there.
    """

    def __init__(self, shapes: Shapes, *, layers: str = "last-1", kind: str = "kl", causal: bool | None = None) -> None:
        super().__init__()
        if kind not in ("kl", "scores"):
            raise BadInput(f"kind '{kind}': write kl or scores.")
        self.kind = kind
        if shapes.heads_student != shapes.heads_teacher or shapes.heads_student < 1:
            raise BadInput(
                f"attention: the student has {shapes.heads_student} heads and the teacher {shapes.heads_teacher}; it needs "
                "as many on both sides. Use relations, which take any number."
            )
        self.heads = shapes.heads_student
        self.key_heads_student, self.key_heads_teacher = shapes.key_heads_student, shapes.key_heads_teacher
        self.causal = shapes.causal if causal is None else causal
        self.names = self.pairs(shapes.student_layers, shapes.teacher_layers, layers=layers)
        for student_name, teacher_name in self.names:
            _check("student", student_name, shapes.widths_student[student_name], self.heads, self.key_heads_student)
            _check("teacher", teacher_name, shapes.widths_teacher[teacher_name], self.heads, self.key_heads_teacher)

    @classmethod
    def pairs(cls, student_layers: int, teacher_layers: int, *, layers: str = "last-1", **_others: Any) -> list[Pair]:
        return attention_pairs(layers, student_layers, teacher_layers)

    def of_counted(self, sides: Sides) -> Tensor:
        padding = Padding.of(sides.counts_M)
        seen_MTT = padding.seen(self.causal)
        terms = []
        for place in range(0, len(self.names), 3):
            student_names, teacher_names = zip(*self.names[place : place + 3], strict=True)
            student = self._maps(
                [sides.student[name] for name in student_names], self.key_heads_student, padding, seen_MTT
            )
            teacher = self._maps(
                [sides.teacher[name] for name in teacher_names], self.key_heads_teacher, padding, seen_MTT
            )
            if self.kind == "scores":
                apart_MHTT = (teacher[0] - student[0]).square().masked_fill(~seen_MTT[:, None], 0.0)
                terms.append(padding.rows(apart_MHTT.mean(1).sum(-1) / seen_MTT.sum(-1)))
                continue
            both_MT = relation_kl(teacher[0], student[0]) + relation_kl(teacher[1], student[1])
            terms.append(padding.rows(both_MT))
        return torch.stack(terms).mean(0)

    def _maps(
        self, features: list[Tensor], key_heads: int, padding: Padding, seen_MTT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return log attention and log value relation of one layer, [M, H, T, T] each; or the scores of attention, twice."""
        query_ND, key_ND, value_ND = features
        query_MTHC = padding.pad(split(query_ND, self.heads))
        key_MTHC, value_MTHC = (
            padding.pad(split(rows_ND, key_heads).repeat_interleave(self.heads // key_heads, 1))
            for rows_ND in (key_ND, value_ND)
        )
        if self.kind == "scores":
            scores_MHTT = scores(query_MTHC, key_MTHC)
            return scores_MHTT, scores_MHTT
        return relation(query_MTHC, key_MTHC, seen_MTT), relation(value_MTHC, value_MTHC, seen_MTT)


def _check(side: str, name: str, width: int, heads: int, key_heads: int) -> None:
    count = heads if name.startswith("query") else key_heads
    if count < 1 or heads % count or width % count:
        raise BadInput(
            f"attention: the {side}'s {name} has {width} channels for {count} of its {heads} heads, which do not divide. Give "
            "the numbers of heads in its configuration."
        )
