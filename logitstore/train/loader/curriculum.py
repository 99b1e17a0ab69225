"""Define curricula: the order in which samples are read follows their score. It is a pure function of (samples, seed,
epoch).

Axes: S samples, M places.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from logitstore.core.order import permuted, salt_of
from logitstore.core.random import hashed
from logitstore.core.types import Array

CURRICULA = ("easy-first", "hard-first", "cyclical")
"""The names that `train --curriculum` takes."""


_USE = 13
"""Keeps these random numbers apart from those of a mixed epoch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Curriculum:
    """A curriculum says which samples to read at some places of an epoch.

    easy-first, hard-first: in the first epoch, the share of the ranked samples that may be read grows linearly from `start`
    to all (the linear pacing of "When Do Curricula Work?", Wu et al. 2021); later epochs are mixed. Every epoch reads every
    sample once.

    cyclical: an epoch draws from the easiest share only, again and again until it is as long as any other epoch. The share
    goes from `start` to 1, doubling at every epoch, and back, halving (after Cyclical Curriculum Learning, Kesgin and
    Amasyali 2022; how their share moves could not be confirmed).

    Attributes:
        name: one of CURRICULA.
        ranked_S: int64[S], the samples from the first to the last one to be read.
        seed: seed of the order.
        start: share of the samples that may be read at first, above 0, at most 1.
    """

    name: str
    ranked_S: Array
    seed: int
    start: float

    @classmethod
    def of(cls, name: str, score_S: Array, seed: int, start: float) -> Curriculum:
        """Return the curriculum of a score that is larger for harder samples; equal scores go by sample number, NaN is
        hardest."""
        ranked_S = np.argsort(score_S, kind="stable")
        return cls(name=name, ranked_S=ranked_S[::-1] if name == "hard-first" else ranked_S, seed=seed, start=start)

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: the samples at some places of an epoch."""
        count, salt = len(self.ranked_S), salt_of(self.seed, epoch, _USE)
        if self.name == "cyclical":
            return np.asarray(self.ranked_S[_repeated(places_M, pool_of(count, share_of(epoch, self.start)), salt)])
        if epoch == 0:
            return np.asarray(self.ranked_S[paced(count, self.start, salt)[places_M]])
        return np.asarray(self.ranked_S[permuted(places_M, count, salt)])


def pool_of(count: int, share: float) -> int:
    """Return the number of samples in a share: rounded up, at least one."""
    return min(max(int(np.ceil(share * count)), 1), count)


@lru_cache(maxsize=2)
def paced(count: int, start: float, salt: int) -> Array:
    """Return int64[S]: a permutation of ranks, in which the rank at place p is below start * S + (1 - start) * p, rounded
    up.

    At each place, one of the ranks that may come and have not come yet is drawn.
    """
    places_S = np.arange(count)
    most_S = np.minimum(np.ceil(places_S + start * (count - places_S)).astype(np.int64), count).tolist()
    numbers_S = ((hashed(places_S, salt) >> np.uint64(11)) * 2.0**-53).tolist()
    waiting: list[int] = []
    reached, ranks = 0, []
    for most, number in zip(most_S, numbers_S, strict=True):
        waiting.extend(range(reached, most))
        reached = max(reached, most)
        drawn = int(number * len(waiting))
        waiting[drawn], waiting[-1] = waiting[-1], waiting[drawn]
        ranks.append(waiting.pop())
    return np.array(ranks, np.int64)


def share_of(epoch: int, start: float) -> float:
    """Return the share of the samples in an epoch of the cycle: start, 2 start, ... 1, ... 2 start, start, 2 start, ..."""
    if start >= 1:
        return 1.0
    climb = int(np.ceil(-np.log2(start)))
    step = epoch % (2 * climb)
    return float(min(start * 2.0 ** min(step, 2 * climb - step), 1.0))


def _repeated(places_M: Array, pool: int, salt: int) -> Array:
    """Return int64[M]: different permutations of 0 .. pool - 1, one after the other."""
    passes_M = places_M // pool
    ranks_M = np.empty(len(places_M), np.int64)
    for each in np.unique(passes_M).tolist():
        in_pass_M = passes_M == each
        ranks_M[in_pass_M] = permuted(places_M[in_pass_M] % pool, pool, salt + 1000003 * each)
    return ranks_M
