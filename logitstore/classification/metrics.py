"""Figures of a student that classifies texts: those of every student, and F1, Matthews' correlation and loyalty.

Axes: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.targets.dense import dense
from logitstore.targets.targets import AnyTargets, SampledTargets
from logitstore.train.loader.batch import Batch
from logitstore.train.metrics import Evaluation, Watch, evaluate_batches


@dataclass(frozen=True, kw_only=True)
class ClassEvaluation(Evaluation):
    """What `Evaluation` holds, and figures of classes. `agreement` is what Xu et al. 2021 call label loyalty.

    Attributes:
        macro_f1: F1 of each class on the labels, and the mean over the classes that are a label or an answer.
        matthews: Matthews' correlation of labels and answers, of any number of classes (Gorodkin 2004); 0 where either is
            always the same class.
        probability_loyalty: mean over the rows of 1 - sqrt(JS(teacher, student)), with the natural logarithm, as the authors'
            code takes it (Xu et al. 2021, section 3.2): 1 for the same distribution, 0.167 for two that share no class. NaN
            on a cache of random samples.
    """

    macro_f1: float
    matthews: float
    probability_loyalty: float


@torch.no_grad()
def evaluate_classes(
    student: Callable[..., Any],
    batches: Iterable[Batch],
    targets: Callable[[Batch], AnyTargets],
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    *,
    classes: int,
    watch: Watch | None = None,
) -> ClassEvaluation:
    """Evaluate a student, in evaluation mode, on some batches; see `evaluate_batches`.

    Args:
        student, batches, targets, device, reduce: see `evaluate_batches`.
        classes: count of the classes.
        watch: see `evaluate_batches`.
    """
    # right answers, answers and labels of every class; then the sum of loyalties, and how many
    sums = torch.zeros(3 * classes + 2, dtype=torch.float64)

    def count(logits_NC: Tensor, batch: Batch, found: AnyTargets) -> None:
        if watch is not None:
            watch(logits_NC, batch, found)
        sums.add_(_sums(logits_NC[batch.rows][:, :classes], batch, found).cpu())

    figures = evaluate_batches(student, batches, targets, device, reduce, count)
    total = reduce(sums.to(device)).cpu() if device.type != "mps" else sums
    right_C, answered_C, labelled_C = total[: 3 * classes].view(3, classes)
    loyalty, rows = total[3 * classes :].tolist()
    return ClassEvaluation(
        **vars(figures),
        macro_f1=macro_f1(right_C, answered_C, labelled_C),
        matthews=matthews(right_C, answered_C, labelled_C),
        probability_loyalty=loyalty / max(rows, 1),
    )


def _sums(logits_NC: Tensor, batch: Batch, targets: AnyTargets) -> Tensor:
    probs_NC = torch.softmax(logits_NC.double() if logits_NC.device.type != "mps" else logits_NC.float(), -1)
    is_labelled_N = batch.row_mask & (batch.gold >= 0)
    answers_N, gold_N = logits_NC.argmax(-1)[is_labelled_N], batch.gold[is_labelled_N]
    classes = logits_NC.shape[1]
    counts = [torch.bincount(each, minlength=classes) for each in (gold_N[answers_N == gold_N], answers_N, gold_N)]
    loyalty_N = torch.full_like(probs_NC[:, 0], math.nan)
    if not isinstance(targets, SampledTargets):
        loyalty_N = probability_loyalty(dense(targets)[:, :classes].to(probs_NC.dtype), probs_NC)
    kept_N = loyalty_N[batch.row_mask]
    return torch.cat([*(each.double() for each in counts), torch.stack([kept_N.sum(), batch.row_mask.sum()]).double()])


def probability_loyalty(teacher_NC: Tensor, student_NC: Tensor) -> Tensor:
    """Return [N]: 1 - sqrt(JS) of two distributions, with the natural logarithm."""
    mean_NC = (teacher_NC + student_NC) / 2
    divergence_N = sum(
        (torch.xlogy(each_NC, each_NC) - torch.xlogy(each_NC, mean_NC)).sum(-1) / 2
        for each_NC in (teacher_NC, student_NC)
    )
    return 1 - torch.as_tensor(divergence_N).clamp(min=0).sqrt()


def macro_f1(right_C: Tensor, answered_C: Tensor, labelled_C: Tensor) -> float:
    """Return the mean F1 of the classes that are a label or an answer; NaN where there are no labels.

    Args:
        right_C: how often each class was answered rightly.
        answered_C: how often it was answered.
        labelled_C: how often it is the label.
    """
    both_C = answered_C + labelled_C
    seen_C = both_C > 0
    return float((2 * right_C[seen_C] / both_C[seen_C]).mean()) if bool(seen_C.any()) else math.nan


def matthews(right_C: Tensor, answered_C: Tensor, labelled_C: Tensor) -> float:
    """Return Matthews' correlation; arguments as for `macro_f1`. NaN where there are no labels."""
    count = float(labelled_C.sum())
    if not count:
        return math.nan
    covariance = float(right_C.sum()) * count - float((answered_C * labelled_C).sum())
    spread = (count**2 - float((answered_C**2).sum())) * (count**2 - float((labelled_C**2).sum()))
    return covariance / math.sqrt(spread) if spread > 0 else 0.0
