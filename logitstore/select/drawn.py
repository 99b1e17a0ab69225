"""Selections by chance: samples drawn, within strata, or pruned."""

from __future__ import annotations

import math

import numpy as np

from logitstore.core.order import permuted, salt_of
from logitstore.core.types import Array
from logitstore.select.choice import Amount, Candidates, Choice, first_of
from logitstore.select.ranked import falling

SELECT = 11
"""Keeps these random numbers apart from those of an epoch's order."""


def drawn(candidates: Candidates, amount: Amount) -> Choice:
    """Choose samples at random, each as likely as any other. A smaller amount with the same seed chooses a part of a larger
    one."""
    order_S = mixed(len(candidates), amount.seed)
    return Choice(samples_M=first_of(order_S, candidates.allowed_S, amount.of(len(candidates))))


def mixed(count: int, seed: int) -> Array:
    """Return int64[S]: a random order, the same on every machine."""
    return permuted(np.arange(count), count, salt_of(seed, 0, SELECT))


LEAST_ALPHA, MOST_ALPHA = 0.1, 0.9
"""The suggestion for the whole of the data, and for a tenth of it or less."""


def pruned(candidates: Candidates, amount: Amount) -> Choice:
    """Choose random samples, which "Distilling the Knowledge in Data Pruning" finds about as good as any choice."""
    choice = drawn(candidates, amount)
    share = len(choice.samples_M) / len(candidates)
    return Choice(samples_M=choice.samples_M, suggested_alpha=suggested_alpha(share))


def suggested_alpha(share: float) -> float:
    """Return the weight of distillation that goes with the share of the data kept: 0.1 + 0.8 min(log10(1 / share), 1).

    The paper gives the KL little weight where all data are kept, and much where a tenth is. It has no formula; this one is
    a straight line in the logarithm of the share between those two ends.

    Args:
        share: share of the samples, above 0, at most 1.
    """
    if share <= 0:
        return MOST_ALPHA
    return LEAST_ALPHA + (MOST_ALPHA - LEAST_ALPHA) * min(-math.log10(share), 1.0)


def stratified(candidates: Candidates, amount: Amount) -> Choice:
    """Choose the samples of every domain with the highest score, or random ones where there is no score."""
    order_S = mixed(len(candidates), amount.seed) if candidates.score_S is None else falling(candidates.score_S)
    counts_D = np.bincount(candidates.domain_S)
    quotas_D = shares(counts_D, amount.of(len(candidates)))
    chosen = [
        first_of(order_S[candidates.domain_S[order_S] == domain], candidates.allowed_S, int(quota))
        for domain, quota in enumerate(quotas_D)
    ]
    return Choice(samples_M=np.sort(np.concatenate(chosen)))


def shares(counts_D: Array, total: int) -> Array:
    """Return int64[D]: a total divided in proportion to the counts, by largest remainders; of equal ones the first domain
    comes first."""
    exact_D = counts_D * (total / max(int(counts_D.sum()), 1))
    whole_D = np.floor(exact_D).astype(np.int64)
    left = total - int(whole_D.sum())
    whole_D[np.argsort(whole_D - exact_D, kind="stable")[:left]] += 1
    return whole_D
