"""Choose the positions of a sample that have a row; docs/format.md, "Chosen positions".

Axes: T tokens, C candidates (the positions that the data ask about), N rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from logitstore.core.random import POSITIONS, uniform
from logitstore.core.types import Array
from logitstore.format.positions import Share
from logitstore.text.sample import Sample


def chosen(sample: Sample, share: Share | None) -> Sample:
    """Return a sample with a share of its rows; undecided where the teacher's answers choose them.

    Args:
        sample: with a row at each position that the data ask about.
        share: the share; None for all.
    """
    if share is None:
        return sample
    count = int(share.counts(np.array([sample.rows]))[0])
    if share.asks_teacher:
        return replace(sample, gold_T=sample.mask_T, undecided=count)
    return keeping(sample, lowest(uniform(sample.key, sample.rows, 1, POSITIONS)[:, 0], count))


def lowest(numbers_C: Array, count: int) -> Array:
    """Return int64[N], rising: the places of the smallest numbers; of equal ones the first."""
    return np.sort(np.argsort(numbers_C, kind="stable")[:count])


def highest(entropy_C: Array, count: int) -> Array:
    """Return int64[N], rising: the places of the largest entropies, which are compared in float16; of equal ones the first."""
    return lowest(-entropy_C.astype(np.float16), count)


def keeping(sample: Sample, places_N: Array) -> Sample:
    """Return a sample with rows at some of its candidates.

    Args:
        sample: with a row at each candidate, or undecided.
        places_N: int64, rising: which of them.
    """
    mask_T = np.zeros_like(sample.mask_T)
    mask_T[sample.positions_N[places_N]] = True
    return replace(sample, mask_T=mask_T, gold_T=sample.mask_T, undecided=None)


def undecided(sample: Sample) -> Sample:
    """Return a sample of a cache as it was before the teacher's answers chose its rows."""
    if sample.gold_T is None:
        raise ValueError("every position of this sample that the data ask about has a row")
    return replace(sample, mask_T=sample.gold_T, undecided=sample.rows)
