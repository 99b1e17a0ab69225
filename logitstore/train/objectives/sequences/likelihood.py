"""Likelihood of samples, weighted by what the data say of each. See `Sequences` for the axes."""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.train.objectives.sequences.sequences import Sequences


def score_likelihood(some: Sequences, *, baseline: float = 0.0, beta: float | None = None) -> Tensor:
    """Minus the mean logprob of a token of each sample, times a weight that follows from its score.

    Without beta the weight is score - baseline, which may be negative: the policy gradient of samples that are drawn once
    (Williams 1992). With beta it is exp((score - baseline) / beta), never negative: reward-weighted regression (Peters and
    Schaal 2007). The larger beta, the more alike the weights.

    Args:
        some: samples, each with a score.
        baseline: what is taken from the scores.
        beta: the temperature of the weights, above 0; None for weights that are linear in the score.

    Returns:
        [M], nats per token.

    Raises:
        BadInput: beta is not above 0.
    """
    if beta is not None and not (isinstance(beta, int | float) and beta > 0):
        raise BadInput(f"objective score_likelihood: beta is {beta!r}, but must be a number above 0.")
    above_M = some.score_M - baseline
    return -(above_M if beta is None else torch.exp(above_M / beta)) * some.mean_M
