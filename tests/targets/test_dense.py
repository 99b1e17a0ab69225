"""Tempered targets stay normalised."""

from __future__ import annotations

import torch

from logitstore.targets.dense import dense, temper
from tests.parts.dense_kl import make_targets


def test_tempering_keeps_the_distribution_normalised_and_tends_to_the_argmax() -> None:
    targets, stored = make_targets(rows=5, k=4, vocabulary=40, tail="prior")
    for temperature in (0.05, 0.5, 1.0, 3.0, 50.0):
        total = dense(targets, temperature).sum(-1)
        torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-5, atol=1e-5)
        tempered = temper(targets, temperature)
        mass = tempered.logprobs_NK.exp().sum(-1) + tempered.tail_logmass_N.exp()
        torch.testing.assert_close(mass, torch.ones_like(mass))
    cold = dense(targets, 0.01)
    assert (cold.argmax(-1) == stored.argmax(-1)).all()
    assert (cold.max(-1).values > 0.99).all()
    torch.testing.assert_close(dense(targets), stored.float(), rtol=1e-4, atol=1e-6)
