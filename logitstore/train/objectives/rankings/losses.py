"""What a student's scores of the documents of a query are compared with. See `Ranked` for the axes.

Each function gives a loss [M] of each query.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from logitstore.errors import BadInput
from logitstore.train.objectives.rankings.ranked import Ranked, differences, log_softmax_of

PAIRS = ("labels", "all")
"""A document with one that the labels find less relevant; or every two documents of a query."""


def margin_mse(some: Ranked, *, pairs: str = "labels") -> Tensor:
    """The mean over pairs of ((s_i - s_j) - (t_i - t_j))^2 (Margin-MSE, Hofstaetter et al. 2020, eq. 4).

    Args:
        some: scores.
        pairs: "labels" takes pairs of a more and a less relevant document, as the paper does; "all" takes all of a query.

    Returns:
        [M], squared units of the scores; 0 for a query without a pair.

    Raises:
        BadInput: `pairs` is none of PAIRS.
    """
    if pairs not in PAIRS:
        raise BadInput(f"objective margin_mse: pairs is {pairs!r}, but must be {' or '.join(PAIRS)}.")
    counts_MLL = some.judged_MLL if pairs == "labels" else some.pairs_MLL
    errors_MLL = differences(some.student_ML) - differences(some.teacher_ML)
    return some.mean_of_pairs(errors_MLL.square(), counts_MLL)


def ranknet(some: Ranked, *, soft: bool = False) -> Tensor:
    """The mean over pairs of the cross-entropy of sigmoid(s_i - s_j) with the teacher's preference (RankNet, Burges et al.
    2005, eq. 3): -P o + log(1 + e^o), o = s_i - s_j.

    Args:
        some: scores.
        soft: P is sigmoid(t_i - t_j), the teacher's own chance that i comes before j; otherwise 1 where the teacher puts i
            before j, and pairs that it finds equal do not count.

    Returns:
        [M], nats; 0 for a query without a pair.
    """
    margin_MLL, teacher_MLL = differences(some.student_ML), differences(some.teacher_ML)
    if soft:
        return some.mean_of_pairs(softplus(margin_MLL) - torch.sigmoid(teacher_MLL) * margin_MLL, some.pairs_MLL)
    both_MLL = some.is_there_ML[:, :, None] & some.is_there_ML[:, None, :]
    return some.mean_of_pairs(softplus(-margin_MLL), both_MLL & (teacher_MLL > 0))


def list_kl(some: Ranked, *, temperature: float = 1.0) -> Tensor:
    """T^2 KL(softmax(t / T) || softmax(s / T)) over the documents of a query: ListNet's cross-entropy of the chances to come
    first (Cao et al. 2007, eq. 4) minus the teacher's entropy; the distillation term of DeAR (Abdallah et al. 2025).

    Args:
        some: scores.
        temperature: T, above 0.

    Returns:
        [M], nats.
    """
    teacher_ML = log_softmax_of(some.teacher_ML, some.is_there_ML, temperature)
    student_ML = log_softmax_of(some.student_ML, some.is_there_ML, temperature)
    kl_ML = torch.where(some.is_there_ML, teacher_ML.exp() * (teacher_ML - student_ML), 0.0)
    return temperature**2 * kl_ML.sum(-1)


def score_mse(some: Ranked) -> Tensor:
    """The mean over the documents of (s - t)^2: the student has the teacher's scores, and not only their differences.

    Returns:
        [M], squared units of the scores.
    """
    errors_ML = torch.where(some.is_there_ML, (some.student_ML - some.teacher_ML).square(), 0.0)
    return errors_ML.sum(-1) / some.is_there_ML.sum(-1).clamp(min=1)


def label_cross_entropy(some: Ranked) -> Tensor:
    """-sum_i y_i log softmax(s)_i over the judged documents of a query, y the labels divided by their sum: ListNet's loss on
    labels; with one relevant document its negative logprob among the candidates.

    Returns:
        [M], nats; 0 for a query without a relevant document.
    """
    is_judged_ML = some.gold_ML >= 0
    gains_ML = torch.where(is_judged_ML, some.gold_ML, 0).to(some.student_ML.dtype)
    total_M = gains_ML.sum(-1)
    has_M1 = (total_M > 0)[:, None]
    # a query without a relevant document would be a softmax over nothing
    logprobs_ML = log_softmax_of(some.student_ML, is_judged_ML | ~has_M1)
    return -(gains_ML / total_M.clamp(min=1)[:, None] * logprobs_ML).sum(-1)
