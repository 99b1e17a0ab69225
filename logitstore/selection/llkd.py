"""Choose samples that the teacher is sure about, with a threshold for each domain, and weigh them more the surer it is.

Axes: S samples, D domains, M chosen.
"""

from __future__ import annotations

import numpy as np

from logitstore.selection.choice import Amount, Candidates, Choice, first_of
from logitstore.selection.ranked import falling
from logitstore.types import Array


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
