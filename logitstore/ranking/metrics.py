"""Figures of a student that ranks documents: how it orders those of a query, by the labels and by the teacher.

Axes: M queries, L documents of the longest of them, N documents of all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from logitstore.train.loader.batch import Batch
from logitstore.train.objectives.rankings.losses import list_kl
from logitstore.train.objectives.rankings.ranked import Ranked, differences

CUT = 10
"""How many of the first documents nDCG and MRR look at."""


@dataclass(frozen=True, kw_only=True)
class RankEvaluation:
    """Means over queries. Documents with equal scores stand in the order that is worst for the student.

    Attributes:
        rows: number of documents that were judged.
        queries: number of queries.
        kl: KL between the softmax over the documents of a query of the teacher's scores and of the student's, nats.
        ndcg, mrr: nDCG@10 with the labels as gains (Jaervelin and Kekaelaeinen 2002), and the mean of 1 / rank of the first
            relevant document among the first ten, else 0; of queries with a relevant document. Documents that nobody judged
            count as not relevant. NaN without such a query.
        teacher_ndcg, teacher_mrr: the same of the teacher.
        ndcg_to_teacher, mrr_to_teacher: the same where a document's gain is how many of the others the teacher puts behind
            it, and its first document is the relevant one; of queries with two documents or more.
        spearman, kendall: correlation of the ranks with the teacher's, with mean ranks for equal scores, and tau-b; of queries
            for which the teacher has two different scores. 0 where the student has one score for all.
    """

    rows: int
    queries: int
    kl: float
    ndcg: float
    mrr: float
    teacher_ndcg: float
    teacher_mrr: float
    ndcg_to_teacher: float
    mrr_to_teacher: float
    spearman: float
    kendall: float


_MEANS = tuple(each.name for each in fields(RankEvaluation) if each.name not in ("rows", "queries"))


@torch.no_grad()
def evaluate_ranking(
    student: Callable[..., Any],
    batches: Iterable[Batch],
    targets: Callable[[Batch], Any],
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> RankEvaluation:
    """Evaluate a student, in evaluation mode, on some batches; see `logitstore.train.metrics.evaluate_batches`."""
    # of each figure its sum and how many queries have it; then documents and queries
    sums = torch.zeros(2 * len(_MEANS) + 2, dtype=torch.float64)
    for batch in batches:
        moved = batch.to(device)
        scores_N = student(**moved.model_inputs()).logits.flatten(0, -2)[moved.rows, 0]
        sums += _sums(scores_N.cpu().double(), targets(moved).score_N.cpu().double(), batch)
    total = reduce(sums.to(device)).cpu() if device.type != "mps" else sums
    found, counts = total[: 2 * len(_MEANS)].view(2, -1).tolist()
    means = {
        name: value / count if count else math.nan for name, value, count in zip(_MEANS, found, counts, strict=True)
    }
    return RankEvaluation(rows=int(total[-2]), queries=int(total[-1]), **means)


def _sums(student_N: Tensor, teacher_N: Tensor, batch: Batch) -> Tensor:
    counts_M = batch.counts[batch.samples >= 0]
    rows = int(counts_M.sum())
    some = Ranked.of(student_N[:rows], teacher_N[:rows], batch.gold[:rows], counts_M)
    figures = figures_of(some)
    lines = torch.stack([figures[name] for name in _MEANS])
    known = ~lines.isnan()
    ends = torch.tensor([rows, len(counts_M)], dtype=torch.float64)
    return torch.cat([torch.where(known, lines, 0.0).sum(1), known.sum(1).double(), ends])


def figures_of(some: Ranked) -> dict[str, Tensor]:
    """Return the figures of each query by name, float64[M]; NaN where a query has none."""
    gains_ML = some.gold_ML.clamp(min=0).double()
    teacher_MLL, student_MLL = differences(some.teacher_ML), differences(some.student_ML)
    both_MLL = some.is_there_ML[:, :, None] & some.is_there_ML[:, None, :]
    behind_ML = ((teacher_MLL > 0) & both_MLL).sum(-1).double()
    first_ML = (some.is_there_ML & ((teacher_MLL < 0) & both_MLL).logical_not().all(-1)).double()
    has_several_M = some.is_there_ML.sum(-1) > 1

    def of_several(values_M: Tensor) -> Tensor:
        return values_M.masked_fill(~has_several_M, math.nan)

    return {
        "kl": list_kl(some),
        "ndcg": ndcg(some.student_ML, gains_ML, some.is_there_ML),
        "mrr": reciprocal_rank(some.student_ML, gains_ML, some.is_there_ML),
        "teacher_ndcg": ndcg(some.teacher_ML, gains_ML, some.is_there_ML),
        "teacher_mrr": reciprocal_rank(some.teacher_ML, gains_ML, some.is_there_ML),
        "ndcg_to_teacher": of_several(ndcg(some.student_ML, behind_ML, some.is_there_ML)),
        "mrr_to_teacher": of_several(reciprocal_rank(some.student_ML, first_ML, some.is_there_ML)),
        "spearman": _correlation(ranks(student_MLL, both_MLL), ranks(teacher_MLL, both_MLL), some.is_there_ML),
        "kendall": kendall(student_MLL.sign(), teacher_MLL.sign(), both_MLL),
    }


def ordered_gains(scores_ML: Tensor, gains_ML: Tensor, is_there_ML: Tensor) -> Tensor:
    """Return the gains by falling score, of equal scores the smallest first; places without a document come last."""
    worst_ML = gains_ML.argsort(dim=-1, stable=True)
    scores_ML = torch.where(is_there_ML, scores_ML, -torch.inf).gather(1, worst_ML)
    order_ML = scores_ML.argsort(dim=-1, descending=True, stable=True)
    return gains_ML.gather(1, worst_ML).gather(1, order_ML)


def ndcg(scores_ML: Tensor, gains_ML: Tensor, is_there_ML: Tensor) -> Tensor:
    """Return [M]: nDCG@10, sum_i gain_i / log2(1 + i) over that of the best order; NaN where no gain is above 0."""
    discounts_K = 1 / torch.arange(2, min(CUT, scores_ML.shape[1]) + 2, dtype=torch.float64).log2()
    found, best = (
        (each_ML[:, : len(discounts_K)] * discounts_K).sum(-1)
        for each_ML in (
            ordered_gains(scores_ML, gains_ML, is_there_ML),
            ordered_gains(gains_ML, gains_ML, is_there_ML),
        )
    )
    return torch.where(best > 0, found / best, math.nan)


def reciprocal_rank(scores_ML: Tensor, gains_ML: Tensor, is_there_ML: Tensor) -> Tensor:
    """Return [M]: 1 / rank of the first document with a gain, 0 if it is not among the first ten; NaN where there is none."""
    hits_ML = ordered_gains(scores_ML, gains_ML, is_there_ML)[:, :CUT] > 0
    places_M = hits_ML.long().argmax(-1)
    found_M = torch.where(hits_ML.any(-1), 1 / (1 + places_M.double()), 0.0)
    return torch.where((gains_ML > 0).any(-1), found_M, math.nan)


def ranks(differences_MLL: Tensor, both_MLL: Tensor) -> Tensor:
    """Return [M, L]: how many documents stand before each, and half of those with its own score."""
    before_MLL, same_MLL = (differences_MLL < 0) & both_MLL, (differences_MLL == 0) & both_MLL
    return before_MLL.sum(-1).double() + same_MLL.sum(-1) / 2


def _correlation(student_ML: Tensor, teacher_ML: Tensor, is_there_ML: Tensor) -> Tensor:
    """Return Pearson's correlation [M] of numbers; 0 where the student's are all equal, NaN where the teacher's are."""
    counts_M1 = is_there_ML.sum(-1, keepdim=True).clamp(min=1)
    student, teacher = (
        torch.where(is_there_ML, each_ML - torch.where(is_there_ML, each_ML, 0.0).sum(-1, True) / counts_M1, 0.0)
        for each_ML in (student_ML, teacher_ML)
    )
    own_M, other_M = student.square().sum(-1), teacher.square().sum(-1)
    found_M = (student * teacher).sum(-1) / (own_M * other_M).sqrt()
    return torch.where(other_M > 0, torch.where(own_M > 0, found_M, 0.0), math.nan)


def kendall(student_MLL: Tensor, teacher_MLL: Tensor, both_MLL: Tensor) -> Tensor:
    """Return Kendall's tau-b [M] of the signs of differences; 0 and NaN as for `_correlation`."""
    agreed, own, other = (
        torch.where(both_MLL, each_MLL, 0.0).sum((1, 2)).double()
        for each_MLL in (student_MLL * teacher_MLL, student_MLL.square(), teacher_MLL.square())
    )
    found_M = agreed / (own * other).sqrt()
    return torch.where(other > 0, torch.where(own > 0, found_M, 0.0), math.nan)
