"""Define what a method of selection gets, and what it returns.

Axes: S samples of a cache, M chosen ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from logitstore.core.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """Candidates are the samples to choose from.

    Attributes:
        score_S: float64[S], or None where the method needs no score; NaN where a sample has none.
        domain_S: int64[S], numbers of their domains from 0; all 0 where the data name no domain.
        allowed_S: bool[S], True for samples within the bounds on the score that the user set.
        class_S: int64[S], the class that the teacher finds most probable; None where the method does not ask.
        answers_SC: float32[S, C], the teacher's probabilities of the classes; None where the method does not ask.
        labelled_S: bool[S], True for samples with a label; None where the method does not ask.
        uncertainty_S: float64[S], mean entropy of a student in nats, NaN where it is not known; None without a student.
    """

    score_S: Array | None
    domain_S: Array
    allowed_S: Array
    class_S: Array | None = None
    answers_SC: Array | None = None
    labelled_S: Array | None = None
    uncertainty_S: Array | None = None

    def __len__(self) -> int:
        return len(self.domain_S)

    @property
    def known_S(self) -> Array:
        """float64[S], the scores.

        Raises:
            ValueError: there are no scores.
        """
        if self.score_S is None:
            raise ValueError("this method needs a score")
        return self.score_S

    @property
    def known_classes_S(self) -> Array:
        """int64[S], the classes. Raises ValueError: nobody asked for them."""
        if self.class_S is None:
            raise ValueError("this method needs the teacher's classes")
        return self.class_S

    @property
    def known_answers_SC(self) -> Array:
        """float32[S, C], the answers. Raises ValueError: nobody asked for them."""
        if self.answers_SC is None:
            raise ValueError("this method needs the teacher's answers")
        return self.answers_SC


@dataclass(frozen=True, kw_only=True)
class Amount:
    """An amount says how many samples to choose: a share of all samples, or a count. Without either, all allowed samples
    are chosen.

    Attributes:
        ratio: above 0, at most 1; rounded to the nearest count, at least one sample.
        samples: at least 1.
        seed: seed of methods that draw.
        wrong: share of the teacher's answers that may be wrong, from 0, below 1; for the method that counts with that.
    """

    ratio: float | None = None
    samples: int | None = None
    seed: int = 0
    wrong: float = 0.0

    def of(self, count: int) -> int:
        """Return the number of samples to choose from `count`."""
        if self.samples is not None:
            return min(self.samples, count)
        return count if self.ratio is None else min(max(math.floor(self.ratio * count + 0.5), 1), count)


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """A choice holds the chosen samples.

    Attributes:
        samples_M: int64[M], rising.
        weight_M: float32[M], weight of each sample in the loss, with mean 1; None where all weigh the same.
        suggested_alpha: weight of the distillation that goes with the share kept, where the method suggests one.
    """

    samples_M: Array
    weight_M: Array | None = None
    suggested_alpha: float | None = None


def first_of(order_S: Array, allowed_S: Array, count: int) -> Array:
    """Return int64[M], rising: the first `count` allowed samples of an order of all samples."""
    return np.sort(order_S[allowed_S[order_S]][:count])
