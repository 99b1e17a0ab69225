"""Measure how near a student is to the teacher and to the text, row by row, summed over a loader.

Axes: N rows, G positions with a gold token and no row, K kept, V the student's vocabulary.
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
from logitstore.train.objectives import cross_entropy, forward_kl, lumped_kl
from logitstore.train.objectives.kernels.rowwise import rowwise

Watch = Callable[[Tensor, Batch, AnyTargets], None]
"""Is shown the logits [B * T, V] of a student, the batch and its targets, for figures of other kinds."""

BINS = 15


TOP = 5


_OF_GOLD = ("cross_entropy", "accuracy", "top5_accuracy")
"""Means over all gold tokens or labels, those of positions without a row too."""


_OF_LABELLED = ("teacher_cross_entropy",)
"""Means over the rows with a gold token or label."""


_OF_ALL = ("kl", "kl_lower_bound", "agreement", "acceptance")


_GOLD_LINES = len(_OF_GOLD) + 1
"""Lines of figures on gold tokens and labels: those, and the student's confidence."""


_COUNTS = len(_OF_GOLD) + len(_OF_LABELLED) + len(_OF_ALL)
"""Where the counts begin among the sums."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """An evaluation holds means over rows; entropies and divergences are in nats. On a cache of random samples, `kl` is an
    estimate, and figures that compare token by token are NaN.

    Attributes:
        rows: number of rows that were judged.
        cross_entropy, perplexity: of the student on the gold tokens, or on the labels of images that have one. In a cache of
            chosen positions those of all tokens that the data ask about.
        teacher_cross_entropy: of the teacher on the gold tokens and labels of the rows.
        accuracy, top5_accuracy: share of the tokens or labels of `cross_entropy` that are the student's most probable one, or
            one of its five most probable ones.
        kl: KL(teacher || student) with the tail shaped as the cache says.
        kl_lower_bound: the same with all unlisted tokens counted as one token: never above the KL to the full teacher. NaN
            on a cache without a tail, where the mass of that one token is not known, and on one of hidden states, where no
            token is listed and the bound would be 0 for every student.
        agreement: share of rows where student and teacher have the same most probable token.
        acceptance: sum_v min(p, s), the chance that speculative decoding keeps a token prepared by the student
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
    watch: Watch | None = None,
) -> Evaluation:
    """Evaluate a student, in evaluation mode, on some batches.

    Args:
        student: a model, or a function that runs one; gives `.logits` [B, T, V].
        batches: the batches to evaluate on.
        targets: decodes the answers of a batch; `Loader.targets` of the cache that the batch comes from.
        device: where the student is.
        reduce: adds the sums of several processes.
        watch: is shown every batch.
    """
    sums = torch.zeros(_COUNTS + 3 + 3 * BINS, dtype=torch.float64)
    for batch in batches:
        sums += _sums(student, batch.to(device), targets, watch).cpu()
    return _evaluation(reduce(sums.to(device)).cpu() if device.type != "mps" else sums)


def _sums(
    student: Callable[..., Any],
    batch: Batch,
    decode: Callable[[Batch], AnyTargets],
    watch: Watch | None,
) -> Tensor:
    """Return float64: sums of every metric, the numbers of gold tokens, of rows with one and of rows, then count, confidence
    and accuracy of every calibration bin."""
    logits: Tensor = student(**batch.model_inputs()).logits
    logits_RV = logits.flatten(0, -2)
    targets = decode(batch)
    if watch is not None:
        watch(logits_RV, batch, targets)
    is_gold_N, gold_N = batch.row_mask & (batch.gold >= 0), batch.gold.clamp(min=0)
    pieces: list[Tensor] = []

    def judge(logits_nV: Tensor, some: slice) -> Tensor:
        pieces.append(_row_metrics(logits_nV, targets[some], gold_N[some], batch.gold_logprob[some]))
        return pieces[-1][0]

    rowwise(judge, logits_RV, batch.rows)
    metrics_MN = torch.cat(pieces, 1).double()
    of_all_MN = torch.where(batch.row_mask, metrics_MN[-len(_OF_ALL) :], 0.0)
    teacher_N = torch.where(is_gold_N, metrics_MN[_GOLD_LINES], 0.0)
    labelled, golds_MA = is_gold_N.sum(), metrics_MN[:_GOLD_LINES]
    if batch.unanswered:
        golds_MA = torch.cat([golds_MA, _unanswered(logits_RV, batch)], 1)
        is_gold_N = torch.cat([is_gold_N, batch.unanswered["mask"]])
    golds_MA = torch.where(is_gold_N, golds_MA, 0.0)
    confidence_A, correct_A = golds_MA[-1], golds_MA[_OF_GOLD.index("accuracy")]
    bins_A = (confidence_A.nan_to_num(0.0) * BINS).ceil().clamp(1, BINS).long() - 1
    binned = torch.zeros(3, BINS, dtype=torch.float64, device=metrics_MN.device)
    binned.index_add_(1, bins_A, torch.stack([is_gold_N.double(), confidence_A, correct_A]))
    counts = torch.stack([is_gold_N.sum(), labelled, batch.row_mask.sum()]).double()
    return torch.cat([golds_MA[:-1].sum(1), teacher_N.sum()[None], of_all_MN.sum(1), counts, binned.flatten()])


def _unanswered(logits_RV: Tensor, batch: Batch) -> Tensor:
    """Return the lines of `_gold_metrics` of the positions without a row."""
    gold_G, pieces = batch.unanswered["gold"], [logits_RV.new_zeros(_GOLD_LINES, 0, dtype=torch.float32)]

    def judge(logits_nV: Tensor, some: slice) -> Tensor:
        probs_nV = torch.softmax(logits_nV.float(), -1)
        pieces.append(_gold_metrics(logits_nV, probs_nV, *probs_nV.max(-1), gold_G[some]))
        return pieces[-1][0]

    rowwise(judge, logits_RV, batch.unanswered["rows"])
    return torch.cat(pieces, 1).double()


def _gold_metrics(logits_NV: Tensor, probs_NV: Tensor, confidence_N: Tensor, top_N: Tensor, gold_N: Tensor) -> Tensor:
    """Return float32: one line for each name in _OF_GOLD, then the student's confidence."""
    is_near_N = (probs_NV.topk(min(TOP, probs_NV.shape[1])).indices == gold_N[:, None]).any(1)
    return torch.stack([cross_entropy(logits_NV, gold_N), (top_N == gold_N).float(), is_near_N.float(), confidence_N])


def _row_metrics(logits_NV: Tensor, targets: AnyTargets, gold_N: Tensor, teacher_gold_N: Tensor) -> Tensor:
    """Return float32: the lines of `_gold_metrics`, then one for each name in _OF_LABELLED and _OF_ALL."""
    probs_NV = torch.softmax(logits_NV.float(), -1)
    confidence_N, top_N = probs_NV.max(-1)
    compared = _compared(logits_NV, probs_NV, top_N, targets)
    others = torch.stack([-teacher_gold_N, forward_kl(logits_NV, targets), *compared])
    return torch.cat([_gold_metrics(logits_NV, probs_NV, confidence_N, top_N, gold_N), others])


def _compared(logits_NV: Tensor, probs_NV: Tensor, top_N: Tensor, targets: AnyTargets) -> tuple[Tensor, ...]:
    """Return the lower bound of the KL, agreement and acceptance; NaN where the cache does not determine them."""
    unknown_N = torch.full_like(probs_NV[:, 0], torch.nan)
    if isinstance(targets, SampledTargets):
        return unknown_N, unknown_N, unknown_N
    teacher_NV = dense(targets)
    has_list = targets.ids_NK.shape[1] > 0
    # listed ids stand in the order of their ranks, also where coarse levels make their logprobs equal
    first_N = targets.ids_NK[:, 0] if targets.is_ranked else teacher_NV.argmax(-1)
    return (
        lumped_kl(logits_NV, targets) if has_list and not targets.is_cut else unknown_N,
        (top_N == first_N).float(),
        torch.minimum(probs_NV[:, : teacher_NV.shape[1]], teacher_NV).sum(-1),
    )


def _evaluation(sums: Tensor) -> Evaluation:
    golds, labelled, rows = (int(count) for count in sums[_COUNTS : _COUNTS + 3])
    of_gold, of_labelled, of_all = torch.split(sums[:_COUNTS], [len(_OF_GOLD), len(_OF_LABELLED), len(_OF_ALL)])
    means: dict[str, Any] = {}
    for names, found, count in (
        (_OF_GOLD, of_gold, golds or math.nan),
        (_OF_LABELLED, of_labelled, labelled or math.nan),
        (_OF_ALL, of_all, max(rows, 1)),
    ):
        means |= dict(zip(names, (found / count).tolist(), strict=True))
    _, confidence, correct = sums[_COUNTS + 3 :].view(3, BINS)
    return Evaluation(
        rows=rows,
        perplexity=math.exp(min(means["cross_entropy"], 700)),
        calibration_error=float((confidence - correct).abs().sum() / golds) if golds else math.nan,
        **means,
    )
