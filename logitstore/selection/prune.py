"""Pruning: a random part of the data, and how much of the loss should then be the teacher's."""

from __future__ import annotations

import math

from logitstore.selection.choice import Amount, Candidates, Choice
from logitstore.selection.drawn import drawn

LEAST_ALPHA, MOST_ALPHA = 0.1, 0.9
"""At the whole of the data, and at a tenth of it or less."""


def pruned(candidates: Candidates, amount: Amount) -> Choice:
    """Random samples, which "Distilling the Knowledge in Data Pruning" finds about as good as any choice."""
    found = drawn(candidates, amount)
    share = len(found.samples_M) / len(candidates)
    return Choice(samples_M=found.samples_M, suggested_alpha=suggested_alpha(share))


def suggested_alpha(share: float) -> float:
    """The weight of distillation that goes with the share of the data kept: 0.1 + 0.8 min(log10(1 / share), 1).

    The paper weighs the KL little where all data are kept and much where a tenth is. It gives no formula; this one is a
    straight line in the logarithm of the share between those two ends.

    Args:
        share: of the samples, above 0, to 1.
    """
    if share <= 0:
        return MOST_ALPHA
    return LEAST_ALPHA + (MOST_ALPHA - LEAST_ALPHA) * min(-math.log10(share), 1.0)
