"""Draw samples at random: the baseline for every other method.

Axes: S samples.
"""

from __future__ import annotations

import numpy as np

from logitstore.cache.order import permuted, salt_of
from logitstore.selection.choice import Amount, Candidates, Choice, first_of
from logitstore.types import Array

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
