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
    """Choose the samples whose confidence is at least their domain's threshold; the surest of them if an amount is set.

    This is the teacher's side of LLKD (Li et al. 2024). The paper keeps a sample if the teacher's confidence is above a
    threshold and the student's uncertainty is above another one. Both thresholds are running means over training, adjusted
    for each class, and the sample is weighted by both values. Here is what a cache can decide before training: the mean
    over all samples in place of the running one, domains in place of classes, and the confidence as the weight. With one
    domain, or none, there is one threshold.
    """
    confidence_S = candidates.known_S
    above_S = confidence_S >= thresholds(confidence_S, candidates.domain_S)[candidates.domain_S]
    samples_M = first_of(falling(confidence_S), above_S & candidates.allowed_S, amount.of(len(candidates)))
    kept_M = confidence_S[samples_M]
    weight_M = (kept_M / kept_M.mean()).astype(np.float32) if len(kept_M) and kept_M.mean() > 0 else None
    return Choice(samples_M=samples_M, weight_M=weight_M)


def thresholds(confidence_S: Array, domain_S: Array) -> Array:
    """Return float64[D]: the mean confidence over all samples, times each domain's own mean relative to the largest of
    these."""
    is_known_S = np.isfinite(confidence_S)
    counts_D = np.bincount(domain_S[is_known_S], minlength=int(domain_S.max(initial=0)) + 1)
    sums_D = np.bincount(domain_S[is_known_S], confidence_S[is_known_S], minlength=len(counts_D))
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
