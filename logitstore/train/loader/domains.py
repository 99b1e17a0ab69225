"""Domain re-weighting: read the domains more often on which the student is further behind its teacher (DDK).

This file has pure functions, and an order of samples that follows from them; it runs no student.

Axes: D domains, S samples, M places.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from logitstore.core.order import salt_of
from logitstore.core.random import hashed
from logitstore.core.types import Array

_DOMAIN, _SAMPLE = 17, 19
"""Keep three kinds of random numbers apart: those that choose a domain, those that choose a sample in it, those of a mixed
epoch."""


SMALLEST = 1e-6
"""Nats. A smaller nll of the teacher counts as this; otherwise only a domain that the teacher knows by heart would be read."""


LARGEST = 10.0
"""A larger ratio counts as this: the shares go with exp(ratio), and a student that knows little has perplexities hundreds of
times the teacher's, of which only the largest would be read. Ratios in the paper are below 3."""


Kind = Literal["perplexity", "nll"]
"""What is compared of the two models."""


def behind(student_D: Array, teacher_D: Array, kind: Kind = "perplexity") -> Array:
    """Return float64[D]: how far the student is behind on each domain, from 0 to LARGEST.

    Args:
        student_D, teacher_D: mean nll on the gold tokens of each domain, nats per row.
        kind: "perplexity" divides the perplexities, exp(nll), as DDK does (Liu et al. 2024, equation 1: the exponentials of the
            mean cross-entropies on the domain's validation set); "nll" divides the nll themselves, which differ less.
    """
    student_D, teacher_D = np.asarray(student_D, np.float64), np.asarray(teacher_D, np.float64)
    if kind == "perplexity":
        # in the exponent, where a quotient of two overflows would be no number
        return np.asarray(np.exp(np.minimum(student_D - teacher_D, np.log(LARGEST))))
    return np.asarray(np.minimum(student_D / np.maximum(teacher_D, SMALLEST), LARGEST))


def first_shares(behind_D: Array) -> Array:
    """Return float64[D], sum 1: the shares to begin with, in proportion to exp(`behind`) (DDK, Liu et al. 2024)."""
    powers_D = np.exp(behind_D - behind_D.max())
    return np.asarray(powers_D / powers_D.sum())


def next_shares(shares_D: Array, behind_D: Array, alpha: float) -> Array:
    """Return float64[D], sum 1: the shares after another evaluation of the student.

    With psi = r_t exp(`behind`), r_{t+1} = alpha psi / sum psi + (1 - alpha) / D (DDK): the shares move
    gradually, and no domain is left out.

    Args:
        shares_D: r_t.
        behind_D: ratios of student to teacher; see `behind`.
        alpha: from 0, where all domains are alike, to 1; 0.5 in the paper.
    """
    psi_D = shares_D * np.exp(behind_D - behind_D.max())
    return np.asarray(alpha * psi_D / psi_D.sum() + (1 - alpha) / len(psi_D))


@dataclass(kw_only=True, eq=False)
class DomainOrder:
    """A domain order says which samples to read at some places of an epoch: it draws a domain by its share, then any of its
    samples.

    The places of all epochs are one sequence, cut into spans of equal length. The domain at a place depends on the seed,
    the place and the shares of its span alone, and the sample on the seed and the place. So a run that knows the shares can
    resume anywhere. Samples are drawn with replacement.

    Attributes:
        domain_S: int64[S], the domain of each sample; every domain has at least one sample.
        seed: seed of the draws.
        span: number of places for which the same shares hold.
        shares: float64[D] of every span that is known; the code that evaluates the student appends to them.
    """

    domain_S: Array
    seed: int
    span: int
    shares: list[Array] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._members_S = np.argsort(self.domain_S, kind="stable")
        self._counts_D = np.bincount(self.domain_S)
        if not self._counts_D.all():
            raise ValueError("a domain without samples cannot be drawn from")
        self._starts_D = np.cumsum(self._counts_D) - self._counts_D

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: the samples at some places of an epoch.

        Raises:
            IndexError: the shares of their span are not known yet.
        """
        global_M = epoch * len(self.domain_S) + np.asarray(places_M, np.int64)
        chance_M = _uniform(global_M, salt_of(self.seed, 0, _DOMAIN))
        domain_M = np.empty(len(global_M), np.int64)
        for span in np.unique(global_M // self.span).tolist():
            in_span_M = global_M // self.span == span
            edges_D = np.cumsum(self.shares[span])
            domain_M[in_span_M] = np.searchsorted(edges_D / edges_D[-1], chance_M[in_span_M], side="right")
        chance_M = _uniform(global_M, salt_of(self.seed, 0, _SAMPLE))
        inside_M = (chance_M * self._counts_D[domain_M]).astype(np.int64)
        return np.asarray(self._members_S[self._starts_D[domain_M] + inside_M])


def _uniform(numbers_M: Array, salt: int) -> Array:
    """Return float64[M] in [0, 1): a random number for each of some numbers."""
    return np.asarray((hashed(numbers_M, salt) >> np.uint64(11)) * 2.0**-53)
