"""Selections by rank: the samples with the highest, the lowest or the middle scores, of one cache or of two."""

from __future__ import annotations

import numpy as np

from logitstore.core.types import Array
from logitstore.select.choice import Amount, Candidates, Choice, first_of


def difference(teacher_S: Array, reference_S: Array) -> Array:
    """Return float64[S]: nll of the reference minus nll of the teacher, nats per row (MiniPLM, Gu et al. 2024).

    This is log p_teacher - log p_reference per row, as in the authors' code; a larger one is better. The text of their
    README writes the ratio of the logprobs instead. A sample that both models find impossible has no number: NaN.

    Args:
        teacher_S, reference_S: mean negative logprob of the gold tokens of each sample, nats per row.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray(reference_S.astype(np.float64) - teacher_S.astype(np.float64))


def sure(candidates: Candidates, amount: Amount) -> Choice:
    """Choose the samples of which the teacher is sure and, where figures of a student are given, the student is not: its
    entropy is at least a threshold too. If an amount is set, the ones of the largest weight.

    This is LLKD (Li et al. 2024), decided once and not at every step. The paper's thresholds are running means over training,
    adjusted for each class; here they are means over all samples, adjusted for each class that the teacher answers, or for
    each domain where the answers are not about classes. The weight of a sample is the confidence, times the uncertainty where
    it is known. With one class or domain there is one threshold.
    """
    confidence_S, group_S = (
        candidates.known_S,
        candidates.domain_S if candidates.class_S is None else candidates.class_S,
    )
    above_S = confidence_S >= thresholds(confidence_S, group_S)[group_S]
    weight_S = confidence_S
    if candidates.uncertainty_S is not None:
        uncertainty_S = candidates.uncertainty_S
        above_S &= uncertainty_S >= thresholds(uncertainty_S, group_S)[group_S]  # False where it is not known
        weight_S = confidence_S * uncertainty_S
    samples_M = first_of(falling(weight_S), above_S & candidates.allowed_S, amount.of(len(candidates)))
    kept_M = weight_S[samples_M]
    can_weigh = len(kept_M) > 0 and bool((kept_M > 0).all())
    return Choice(samples_M=samples_M, weight_M=(kept_M / kept_M.mean()).astype(np.float32) if can_weigh else None)


def thresholds(score_S: Array, group_S: Array) -> Array:
    """Return float64[D]: the mean of a score over all samples, times each group's own mean relative to the largest of
    these."""
    is_known_S = np.isfinite(score_S)
    counts_D = np.bincount(group_S[is_known_S], minlength=int(group_S.max(initial=0)) + 1)
    sums_D = np.bincount(group_S[is_known_S], score_S[is_known_S], minlength=len(counts_D))
    means_D = sums_D / np.maximum(counts_D, 1)
    largest = float(means_D.max(initial=0.0))
    overall = float(sums_D.sum()) / max(int(counts_D.sum()), 1)
    return overall * means_D / largest if largest > 0 else means_D


def top(candidates: Candidates, amount: Amount) -> Choice:
    """Choose the samples with the highest score."""
    order_S = falling(candidates.known_S)
    return Choice(samples_M=first_of(order_S, candidates.allowed_S, amount.of(len(candidates))))


def bottom(candidates: Candidates, amount: Amount) -> Choice:
    """Choose the samples with the lowest score."""
    order_S = np.argsort(candidates.known_S, kind="stable")
    return Choice(samples_M=first_of(order_S, candidates.allowed_S, amount.of(len(candidates))))


def falling(score_S: Array) -> Array:
    """Return int64[S]: samples by falling score, equal ones by rising number, NaN last."""
    return np.argsort(-score_S, kind="stable")
