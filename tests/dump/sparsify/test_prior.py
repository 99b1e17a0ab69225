"""The prior tail against a dense float64 reference."""

from __future__ import annotations

import torch

from logitstore.dump.sparsify.prior import UNIFORM_SHARE
from logitstore.dump.sparsify.sketch import TailPilot


def test_the_prior_is_the_mean_of_the_unlisted_probabilities() -> None:
    logits = torch.randn(30, 24, dtype=torch.float64).float()
    ids = logits[:, :20].topk(3).indices
    fit = TailPilot(20)
    fit.add(logits[:11], ids[:11])
    fit.add(logits[11:], ids[11:])
    tails = torch.softmax(logits[:, :20].double(), -1).scatter(1, ids, 0.0).sum(0)
    expected = (1 - UNIFORM_SHARE) * tails / tails.sum() + UNIFORM_SHARE / 20
    torch.testing.assert_close(fit.prior(), expected.float(), atol=1e-7, rtol=1e-5)
    assert fit.rows == 30


def test_the_prior_of_rows_without_a_tail_is_uniform() -> None:
    fit = TailPilot(6)
    fit.add(torch.randn(4, 6), torch.arange(6).repeat(4, 1))
    torch.testing.assert_close(fit.prior(), torch.full((6,), 1 / 6))
