"""The dense distribution in few passes."""

from __future__ import annotations

import pytest
import torch

from logitstore.targets.dense import dense_logprobs, dense_probs
from logitstore.train.objectives import Targets
from tests.parts.targets import targets_of


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("tail", ["none", "uniform", "prior", "latent", "capped latent", "latent alone"])
def test_the_dense_distribution_in_few_passes_is_the_careful_one(tail: str, temperature: float) -> None:
    targets = targets_of(tail, rows=6, k=5, vocabulary=37)
    assert isinstance(targets, Targets)
    expected = dense_logprobs(targets, temperature).double()
    probs, negative_entropy = dense_probs(targets, temperature)
    torch.testing.assert_close(probs.double(), expected.exp(), rtol=1e-4, atol=1e-7)
    terms = torch.where(expected.exp() > 0, expected.exp() * expected.clamp(min=-1e4), 0.0)
    torch.testing.assert_close(negative_entropy.double(), terms.sum(-1), rtol=1e-4, atol=1e-5)
