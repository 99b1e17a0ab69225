"""Choose the samples with the highest or the lowest score. Equal scores go by sample number; samples without a score come
last.

Axes: S samples.
"""

from __future__ import annotations

import numpy as np

from logitstore.selection.choice import Amount, Candidates, Choice, first_of
from logitstore.types import Array


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
