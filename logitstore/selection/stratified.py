"""Choose the same share of every domain, so that a score that favours one domain does not change what the data are about.

Axes: S samples, D domains.
"""

from __future__ import annotations

import numpy as np

from logitstore.selection.choice import Amount, Candidates, Choice, first_of
from logitstore.selection.drawn import mixed
from logitstore.selection.ranked import falling
from logitstore.types import Array


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
