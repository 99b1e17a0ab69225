"""Figures of a student that turns texts into vectors: how near these, and their similarities, are to the teacher's.

Axes: N texts, P pairs, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.train.loader.batch import Batch

MOST_COMPARED = 2048
"""The most texts of which all similarities are compared: those of more are 4 million numbers and beyond."""


@dataclass(frozen=True, kw_only=True)
class VectorEvaluation:
    """How a student's vectors compare with the teacher's. Figures that are not known are NaN.

    Attributes:
        rows: count of texts.
        cosine: mean cosine of the student's and the teacher's vector; NaN where they have different widths.
        similarity_spearman: Spearman's correlation of the cosines among texts, the student's with the teacher's, over all pairs
            of at most 2,048 texts, spread evenly.
        neighbour_agreement: share of these texts whose nearest other text is the same for both.
        gold_spearman: Spearman's correlation of the student's cosines of the data's pairs with their scores.
        teacher_gold_spearman: the same of the teacher's cosines.
    """

    rows: int
    cosine: float
    similarity_spearman: float
    neighbour_agreement: float
    gold_spearman: float
    teacher_gold_spearman: float


@torch.no_grad()
def evaluate_vectors(
    student: Callable[..., Any],
    batches: Iterable[Batch],
    _targets: Callable[[Batch], Any] | None,
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    *,
    vectors: Callable[[Batch], Tensor],
    pairs_S: Array,
    scores_S: Array | None,
) -> VectorEvaluation:
    """Evaluate a student, in evaluation mode, on some batches; arguments not named here are those of `evaluate_batches`.

    On several ranks the figures of similarities are means over the ranks, each of which compares the texts of its share.

    Args:
        _targets: there are no distributions to decode.
        vectors: gives the teacher's vectors of a batch, float32[N, D].
        pairs_S: int64, the pair that each sample belongs to; its two samples lie one behind the other.
        scores_S: float64, the score of this pair, NaN without one; None where there are no scores.
    """
    own, other, numbers = [], [], []
    for batch in batches:
        moved = batch.to(device)
        found_ND = student(**moved.model_inputs()).logits[moved.rows]
        kept_N = moved.row_mask
        own.append(found_ND[kept_N].float().cpu())
        other.append(vectors(moved)[kept_N].float().cpu())
        numbers.append(moved.samples[kept_N].cpu())
    student_ND, teacher_ND = (torch.cat(each).double() for each in (own, other))
    order_N = torch.cat(numbers).argsort()
    student_ND, teacher_ND, numbers_N = student_ND[order_N], teacher_ND[order_N], torch.cat(numbers)[order_N]
    figures = [_cosine(student_ND, teacher_ND), *_similarities(student_ND, teacher_ND)]
    figures += [_of_pairs(each_ND, numbers_N, pairs_S, scores_S) for each_ND in (student_ND, teacher_ND)]
    rows = len(numbers_N)
    # known figures and their weights, so that ranks add up
    sums = torch.tensor(
        [[0.0 if math.isnan(each) else each * rows, 0.0 if math.isnan(each) else rows] for each in figures]
    )
    total = reduce(torch.cat([sums.flatten(), torch.tensor([float(rows)])]).to(device)).double().cpu()
    means = [value / weight if weight else math.nan for value, weight in total[:-1].view(-1, 2).tolist()]
    cosine, similarity, agreement, gold, of_teacher = means
    return VectorEvaluation(
        rows=int(total[-1]),
        cosine=cosine,
        similarity_spearman=similarity,
        neighbour_agreement=agreement,
        gold_spearman=gold,
        teacher_gold_spearman=of_teacher,
    )


def _cosine(student_ND: Tensor, teacher_ND: Tensor) -> float:
    if student_ND.shape != teacher_ND.shape or not len(student_ND):
        return math.nan
    return float(torch.cosine_similarity(student_ND, teacher_ND, dim=-1).mean())


def _similarities(student_ND: Tensor, teacher_ND: Tensor) -> tuple[float, float]:
    """Return Spearman's correlation of the cosines among texts, and the share of texts with the same nearest one."""
    count = min(len(student_ND), MOST_COMPARED)
    if count < 3:
        return math.nan, math.nan
    chosen_M = torch.arange(count) * len(student_ND) // count
    student_MM, teacher_MM = (_cosines(each_ND[chosen_M]) for each_ND in (student_ND, teacher_ND))
    above = torch.triu_indices(count, count, 1)
    correlation = spearman(student_MM[above[0], above[1]], teacher_MM[above[0], above[1]])
    nearest = [each_MM.fill_diagonal_(-2).argmax(-1) for each_MM in (student_MM, teacher_MM)]
    return correlation, float((nearest[0] == nearest[1]).double().mean())


def _cosines(vectors_ND: Tensor) -> Tensor:
    unit_ND = torch.nn.functional.normalize(vectors_ND, dim=-1)
    return unit_ND @ unit_ND.T


def _of_pairs(vectors_ND: Tensor, numbers_N: Tensor, pairs_S: Array, scores_S: Array | None) -> float:
    """Return Spearman's correlation of the cosines of whole pairs with their scores."""
    if scores_S is None or len(numbers_N) < 2:
        return math.nan
    pairs_N = torch.from_numpy(pairs_S.astype(np.int64))[numbers_N]
    first_P = (pairs_N[:-1] == pairs_N[1:]).nonzero().squeeze(1)
    scores_P = torch.from_numpy(scores_S)[numbers_N[first_P]]
    first_P, scores_P = first_P[~scores_P.isnan()], scores_P[~scores_P.isnan()]
    if len(first_P) < 2:
        return math.nan
    return spearman(torch.cosine_similarity(vectors_ND[first_P], vectors_ND[first_P + 1], dim=-1), scores_P)


def spearman(first_P: Tensor, second_P: Tensor) -> float:
    """Return Spearman's correlation of two lists of numbers, equal ones with their mean rank; NaN where one is constant."""
    ranks = torch.stack([_ranks(each_P) for each_P in (first_P, second_P)])
    ranks = ranks - ranks.mean(1, keepdim=True)
    norms = ranks.square().sum(1).sqrt()
    return float((ranks[0] * ranks[1]).sum() / norms.prod()) if bool((norms > 0).all()) else math.nan


def _ranks(values_P: Tensor) -> Tensor:
    sorted_P, order_P = values_P.sort()
    starts_P, ends_P = (torch.searchsorted(sorted_P, sorted_P, right=right) for right in (False, True))
    ranks_P = torch.empty(len(values_P), dtype=torch.float64)
    ranks_P[order_P] = (starts_P + ends_P).double() / 2
    return ranks_P
