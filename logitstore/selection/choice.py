"""What a method of selection is given, and what it gives back.

Axes: S samples of a cache, M chosen ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from logitstore.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """The samples to choose from.

    Attributes:
        score_S: float64[S], or None where the method needs none; NaN where a sample has no number.
        domain_S: int64[S], numbers of their domains from 0; all 0 where the data name none.
        allowed_S: bool[S], those within the bounds on the score that the user set.
    """

    score_S: Array | None
    domain_S: Array
    allowed_S: Array

    def __len__(self) -> int:
        return len(self.domain_S)

    @property
    def known_S(self) -> Array:
        """float64[S]: the scores.

        Raises:
            ValueError: the method was called without them.
        """
        if self.score_S is None:
            raise ValueError("this method needs a score")
        return self.score_S


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much to choose: a share of all samples, or a count of them; all that are allowed where neither is set.

    Attributes:
        ratio: above 0, to 1; rounded to the nearest count, at least one.
        samples: from 1.
        seed: of methods that draw.
    """

    ratio: float | None = None
    samples: int | None = None
    seed: int = 0

    def of(self, count: int) -> int:
        """Samples to choose from `count`."""
        if self.samples is not None:
            return min(self.samples, count)
        return count if self.ratio is None else min(max(math.floor(self.ratio * count + 0.5), 1), count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What was chosen.

    Attributes:
        samples_M: int64[M], rising.
        weight_M: float32[M], what the loss of each counts, with mean 1; None where all count alike.
        suggested_alpha: weight of the distillation that goes with the share kept, where the method has one.
    """

    samples_M: Array
    weight_M: Array | None = None
    suggested_alpha: float | None = None


def first_of(order_S: Array, allowed_S: Array, count: int) -> Array:
    """int64[M], rising: the first `count` of an order of all samples that are allowed."""
    return np.sort(order_S[allowed_S[order_S]][:count])
