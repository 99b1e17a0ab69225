"""The samples of a batch as an objective on whole samples sees them.

Axes: M samples, P pairs: the sample before and the one behind, M = 2 P.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """Some samples.

    Where an objective compares two, the preferred one stands at each even place, and the one that it is preferred to behind it.

    Attributes:
        student_M: float64, the sum of the student's logprobs of the gold tokens of each, nats.
        reference_M: float64, the same of the teacher, from the cache.
        counts_M: float64, count of gold tokens of each.
        score_M: float64, what the data say of each; NaN where they say nothing.
    """

    student_M: Tensor
    reference_M: Tensor
    counts_M: Tensor
    score_M: Tensor

    @property
    def gain_M(self) -> Tensor:
        """The student's logprob less the reference's, nats."""
        return self.student_M - self.reference_M

    @property
    def mean_M(self) -> Tensor:
        """The mean of the student's logprobs, nats per token."""
        return self.student_M / self.counts_M


def difference(values_M: Tensor) -> Tensor:
    """Return [P]: the value of the preferred sample of each pair less that of the other."""
    return values_M[0::2] - values_M[1::2]


def of_both(loss_P: Tensor) -> Tensor:
    """Return [M]: the loss of a pair for each of its two samples, so that the mean over samples is that over pairs."""
    return torch.repeat_interleave(loss_P, 2)
