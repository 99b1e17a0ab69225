"""Tempered targets stay normalised."""

from __future__ import annotations

import pytest
import torch

from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense, dense_probs, temper
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import Targets
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


@pytest.mark.parametrize("cap", [0.0, 2.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_the_bias_of_a_sketch_counts_less_at_higher_temperatures(cap: float, temperature: float) -> None:
    """As docs/format.md says, in float64: e(v) = p(v) exp((1 / T - 1) bias(v)) in the tail, p_T in proportion to e^(1/T)."""
    generator = torch.Generator().manual_seed(1)
    rows, k, width, vocabulary = 6, 3, 4, 30
    weight, base, bias, latent = (
        torch.randn(*shape, generator=generator)
        for shape in ((vocabulary, width), (vocabulary,), (vocabulary,), (rows, width))
    )
    ids = torch.stack([torch.randperm(vocabulary, generator=generator)[:k] for _ in range(rows)])
    listed = torch.tensor([0.4, 0.2, 0.1]).expand(rows, -1)
    targets = Targets(
        ids, listed.log(), torch.full((rows,), 0.3).log(), LatentTail(LinearHead(weight, base, cap=cap), bias), latent
    )

    x = latent.double() @ weight.double().T + base.double()
    z = (cap * torch.tanh(x / cap) if cap else x) + bias.double()
    w = z.exp().scatter(1, ids, 0.0)
    p = (0.3 * w / w.sum(1, keepdim=True)).scatter(1, ids, listed.double())
    e = p * ((1 / temperature - 1) * bias.double()).exp().expand_as(p).scatter(1, ids, 1.0)
    expected = e ** (1 / temperature) / (e ** (1 / temperature)).sum(1, keepdim=True)

    torch.testing.assert_close(dense(targets, temperature).double(), expected, rtol=1e-4, atol=1e-7)
    probs, plogp = dense_probs(targets, temperature)
    torch.testing.assert_close(probs.double(), expected, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(plogp.double(), torch.xlogy(expected, expected).sum(1), rtol=1e-4, atol=1e-6)
