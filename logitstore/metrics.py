"""How near a student is to the teacher and to the text, row by row, summed over a loader.

Axes: N rows, K kept, V the student's vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.batch import Batch
from logitstore.objectives import cross_entropy, forward_kl, lumped_kl
from logitstore.objectives.rowwise import rowwise
from logitstore.targets import AnyTargets, SampledTargets, dense

BINS = 15
TOP = 5

_OF_GOLD = ("cross_entropy", "teacher_cross_entropy", "accuracy", "top5_accuracy")
"""Means over the rows with a gold token or label."""

_OF_ALL = ("kl", "kl_lower_bound", "agreement", "acceptance")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over rows; nats where they are nats. From random samples `kl` is an estimate, and what compares token by token NaN.

    Attributes:
        rows: how many rows were judged.
        cross_entropy, perplexity: of the student on the gold tokens, or on the labels of images that have one.
        teacher_cross_entropy: of the teacher on the same.
        accuracy, top5_accuracy: share of them where the gold token or label is the student's most probable one, or one of its
            five most probable.
        kl: KL(teacher || student) with the tail shaped as the cache says.
        kl_lower_bound: the same with everything unlisted as one token: never above the KL to the full teacher. NaN on a cache
            without a tail, where the mass of that token is not known.
        agreement: share of rows where both have the same most probable token.
        acceptance: sum_v min(p, s), the chance that speculative decoding keeps a token drafted by the student
            (Leviathan et al. 2023, corollary 3.6), with the tail as for `kl`.
        calibration_error: expected calibration error of the student's top-1 on the gold tokens, 15 equal bins
            (Guo et al. 2017, section 3).
    """

    rows: int
    cross_entropy: float
    perplexity: float
    teacher_cross_entropy: float
    accuracy: float
    top5_accuracy: float
    kl: float
    kl_lower_bound: float
    agreement: float
    acceptance: float
    calibration_error: float


@torch.no_grad()
def evaluate_batches(
    student: Callable[..., Any],
    batches: Iterable[Batch],
    targets: Callable[[Batch], AnyTargets],
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Evaluation:
    """Judge a student, in evaluation mode, on some batches.

    Args:
        student: a model, or a function that runs one; gives `.logits` [B, T, V].
        batches: what to judge it on.
        targets: decodes the answers of a batch; `Loader.targets` of the cache it comes from.
        device: where the student is.
        reduce: adds the sums of several processes.
    """
    sums = torch.zeros(len(_OF_GOLD) + len(_OF_ALL) + 2 + 3 * BINS, dtype=torch.float64)
    for batch in batches:
        sums += _sums(student, batch.to(device), targets).cpu()
    return _evaluation(reduce(sums.to(device)).cpu() if device.type != "mps" else sums)


def _sums(student: Callable[..., Any], batch: Batch, decode: Callable[[Batch], AnyTargets]) -> Tensor:
    """float64: sums of every metric, the counts of rows and of those with a gold token, then count, confidence and accuracy
    per calibration bin."""
    logits: Tensor = student(**batch.model_inputs()).logits
    logits_RV = logits.flatten(0, -2)
    targets = decode(batch)
    is_gold_N, gold_N = batch.row_mask & (batch.gold >= 0), batch.gold.clamp(min=0)
    found: list[Tensor] = []

    def judge(logits_nV: Tensor, some: slice) -> Tensor:
        found.append(_row_metrics(logits_nV, targets[some], gold_N[some], batch.gold_logprob[some]))
        return found[-1][0]

    rowwise(judge, logits_RV, batch.rows)
    metrics_MN = torch.cat(found, 1).double()
    of_gold_MN = torch.where(is_gold_N, metrics_MN[: len(_OF_GOLD)], 0.0)
    of_all_MN = torch.where(batch.row_mask, metrics_MN[len(_OF_GOLD) : -1], 0.0)
    confidence_N, correct_N = torch.where(is_gold_N, metrics_MN[-1], 0.0), of_gold_MN[_OF_GOLD.index("accuracy")]
    bins_N = (confidence_N.nan_to_num(0.0) * BINS).ceil().clamp(1, BINS).long() - 1
    binned = torch.zeros(3, BINS, dtype=torch.float64, device=metrics_MN.device)
    binned.index_add_(1, bins_N, torch.stack([is_gold_N.double(), confidence_N, correct_N]))
    counts = torch.stack([batch.row_mask.sum(), is_gold_N.sum()]).double()
    return torch.cat([of_gold_MN.sum(1), of_all_MN.sum(1), counts, binned.flatten()])


def _row_metrics(logits_NV: Tensor, targets: AnyTargets, gold_N: Tensor, teacher_gold_N: Tensor) -> Tensor:
    """float32: one line per name in _OF_GOLD and _OF_ALL, then the student's confidence."""
    probs_NV = torch.softmax(logits_NV.float(), -1)
    top = probs_NV.max(-1)
    bound_N, agreement_N, acceptance_N = _compared(logits_NV, probs_NV, top.indices, targets)
    return torch.stack(
        [
            cross_entropy(logits_NV, gold_N),
            -teacher_gold_N,
            (top.indices == gold_N).float(),
            (probs_NV.topk(min(TOP, probs_NV.shape[1])).indices == gold_N[:, None]).any(1).float(),
            forward_kl(logits_NV, targets),
            bound_N,
            agreement_N,
            acceptance_N,
            top.values,
        ]
    )


def _compared(logits_NV: Tensor, probs_NV: Tensor, top_N: Tensor, targets: AnyTargets) -> tuple[Tensor, ...]:
    """Lower bound of the KL, agreement, acceptance; NaN where the cache cannot tell."""
    unknown_N = torch.full_like(probs_NV[:, 0], torch.nan)
    if isinstance(targets, SampledTargets):
        return unknown_N, unknown_N, unknown_N
    teacher_NV = dense(targets)
    # the listed order is the rank order, also where coarse levels tie
    first_N = targets.ids_NK[:, 0] if targets.is_ranked else teacher_NV.argmax(-1)
    return (
        unknown_N if targets.is_cut else lumped_kl(logits_NV, targets),
        (top_N == first_N).float(),
        torch.minimum(probs_NV[:, : teacher_NV.shape[1]], teacher_NV).sum(-1),
    )


def _evaluation(sums: Tensor) -> Evaluation:
    own, both = len(_OF_GOLD), len(_OF_GOLD) + len(_OF_ALL)
    rows, golds = int(sums[both]), int(sums[both + 1])
    of_gold = sums[:own] / golds if golds else sums[:own] * torch.nan
    means: dict[str, Any] = dict(zip(_OF_GOLD, of_gold.tolist(), strict=True))
    means |= dict(zip(_OF_ALL, (sums[own:both] / max(rows, 1)).tolist(), strict=True))
    _, confidence, correct = sums[both + 2 :].view(3, BINS)
    return Evaluation(
        rows=rows,
        perplexity=math.exp(min(means["cross_entropy"], 700)),
        calibration_error=float((confidence - correct).abs().sum() / golds) if golds else math.nan,
        **means,
    )
