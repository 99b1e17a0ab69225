"""Pruning: choose a random part of the data, and suggest how much of the loss should then be the teacher's."""

from __future__ import annotations

import math

from logitstore.selection.choice import Amount, Candidates, Choice
from logitstore.selection.drawn import drawn

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
