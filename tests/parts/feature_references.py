"""Features of a student and a teacher, every objective on them, and what references of several objectives share."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from logitstore.train.objectives.features import (
    Attention,
    FeatureObjective,
    Match,
    MutualInformation,
    NormDirection,
    Relations,
    Shapes,
    Sides,
    Similarity,
    SquareHead,
)

COUNTS = (3, 1, 0, 5)
VOCABULARY = 7
STUDENT = {"hidden": 6, "query": 12, "key": 6, "value": 6}
TEACHER = {"hidden": 10, "query": 24, "key": 12, "value": 12}


def widths_of(names: list[str], widths: dict[str, int]) -> dict[str, int]:
    return {name: widths["hidden" if name == "final" else name.split("-")[0]] for name in names}


def shapes_of(
    kind: type[FeatureObjective], depths: tuple[int, int] = (2, 4), /, *, same: bool = False, **options: Any
) -> Shapes:
    """Models whose query heads (6) share key heads (3); with `same`, the student is as wide as the teacher."""
    pairs = kind.pairs(*depths, **options)
    return Shapes(
        student_layers=depths[0],
        teacher_layers=depths[1],
        widths_student=widths_of([own for own, _ in pairs], TEACHER if same else STUDENT),
        widths_teacher=widths_of([other for _, other in pairs], TEACHER),
        heads_student=6,
        heads_teacher=6,
        key_heads_student=3,
        key_heads_teacher=3,
    )


def sides_of(shapes: Shapes, counts: tuple[int, ...] = COUNTS, seed: int = 0) -> Sides:
    draw = torch.Generator().manual_seed(seed)
    rows = sum(counts)

    def features(widths: Any) -> dict[str, Tensor]:
        return {name: torch.randn(rows, width, generator=draw).double() for name, width in widths.items()}

    return Sides(
        student=features(shapes.widths_student),
        teacher=features(shapes.widths_teacher),
        counts_M=torch.tensor(counts),
        gold_N=torch.randint(VOCABULARY, (rows,), generator=draw),
        mask_N=torch.ones(rows, dtype=torch.bool),
    )


def class_means() -> Tensor:
    """Token 1 was never seen, nor was token 2."""
    means = torch.randn(VOCABULARY, TEACHER["hidden"], generator=torch.Generator().manual_seed(9))
    means[1], means[2] = 0.0, torch.nan
    return means


CASES: dict[str, tuple[type[FeatureObjective], dict[str, Any]]] = {
    "mse": (Match, {}),
    "cosine": (Match, {"kind": "cosine", "layers": "last-2"}),
    "square head": (SquareHead, {"layers": "uniform"}),
    "norm and direction": (NormDirection, {"means_VD": class_means()}),
    "relations": (Relations, {"relation_heads": 2}),
    "relations, not causal": (Relations, {"causal": False, "layers": "1:2,2:3"}),
    "attention": (Attention, {}),
    "attention, not causal": (Attention, {"causal": False}),
    "similarity": (Similarity, {}),
    "mutual information": (MutualInformation, {"critic_width": 5}),
    "mutual information, alpha 1": (MutualInformation, {"critic_width": 5, "alpha": 1.0}),
    "mutual information, alpha 0": (MutualInformation, {"critic_width": 5, "alpha": 0}),
}


def built(case: str, *, same: bool = False) -> tuple[FeatureObjective, Shapes]:
    kind, options = CASES[case]
    shapes = shapes_of(kind, same=same, **options)
    torch.manual_seed(3)
    make: Callable[..., FeatureObjective] = kind
    return make(shapes, **options), shapes


def samples_of(sides: Sides) -> list[range]:
    starts = [0, *sides.counts_M.cumsum(0).tolist()]
    return [range(first, last) for first, last in pairwise(starts)]


def kl_of_scores(teacher: Tensor, student: Tensor) -> float:
    p, s = teacher.softmax(0), student.softmax(0)
    return float((p * (p / s).log()).sum())


def heads_of(rows: Tensor, heads: int) -> list[Tensor]:
    return list(rows.chunk(heads, dim=1))


def relation_reference(teacher: list[tuple[Tensor, Tensor]], student: list[tuple[Tensor, Tensor]], sides: Sides,
                       causal: bool) -> Tensor:  # fmt: skip
    """Mean over heads, each given as (left, right), of the KL between softmaxes of scaled dot products."""
    losses = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for sample in samples_of(sides):
        for row in sample:
            seen = [other for other in sample if other <= row or not causal]
            for (left_t, right_t), (left_s, right_s) in zip(teacher, student, strict=True):
                scores_t = right_t[seen] @ left_t[row] / math.sqrt(left_t.shape[1])
                scores_s = right_s[seen] @ left_s[row] / math.sqrt(left_s.shape[1])
                losses[row] += kl_of_scores(scores_t, scores_s) / len(teacher)
    return losses


def projected(module: Match | SquareHead | NormDirection, sides: Sides) -> list[tuple[Tensor, Tensor]]:
    found = []
    for own_map, (own, other) in zip(module.projections.maps, module.projections.names, strict=True):
        weight: Any = own_map.weight if isinstance(own_map, nn.Linear) else torch.eye(sides.student[own].shape[1])
        found.append((sides.student[own] @ weight.detach().double().T, sides.teacher[other]))
    return found
