"""Pairs of samples of one group, of which one has the higher score: which there are, and the order in which they are read.

Axes: S samples of a cache, M places, P pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from logitstore.core.order import permuted, salt_of
from logitstore.core.types import Array

PAIRS = ("extremes", "all")
"""Of each group the best sample with the worst one; or every two samples whose scores differ."""

_USE = 17
"""Keeps these random numbers apart from those of a mixed epoch."""


def pairs_of(kind: str, group_S: Array, score_S: Array, allowed_S: Array) -> Array:
    """Return int64[P, 2]: of each pair the sample with the higher score, and the other one.

    Of equal scores the sample with the lower number counts. Samples of one score make no pair, those without a score neither.

    Args:
        kind: one of PAIRS.
        group_S: int64, the group of each sample.
        score_S: float64, NaN where there is none.
        allowed_S: bool, the samples that may be in a pair.
    """
    samples_N = np.flatnonzero(allowed_S & ~np.isnan(score_S))
    # within a group from the best to the worst; `lexsort` is stable
    samples_N = samples_N[np.lexsort((-score_S[samples_N], group_S[samples_N]))]
    ends = np.flatnonzero(np.diff(group_S[samples_N], append=-1)) + 1
    found = []
    for own_N in np.split(samples_N, ends[:-1]):
        score_N = score_S[own_N]
        if kind == "extremes":
            lowest = int(np.argmax(score_N == score_N[-1])) if len(own_N) else 0
            found += [(own_N[0], own_N[lowest])] if len(own_N) and score_N[0] > score_N[-1] else []
            continue
        before, behind = np.nonzero(score_N[:, None] > score_N[None, :])
        found += list(zip(own_N[before], own_N[behind], strict=True))
    return np.array(found, np.int64).reshape(-1, 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairOrder:
    """An order of an epoch in which the samples of a pair follow each other, so that a batch of an even size has whole pairs.

    The pairs are mixed anew every epoch.

    Attributes:
        pairs_P2: int64[P, 2], samples of the cache.
        seed: of the order.
    """

    pairs_P2: Array
    seed: int

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: the samples at some places of an epoch."""
        pair_M = permuted(places_M // 2, len(self.pairs_P2), salt_of(self.seed, epoch, _USE))
        return np.asarray(self.pairs_P2[pair_M, places_M % 2])
