"""How stored rows are compared with the teacher, against the definitions in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.dump.sparsify.fidelity import RARE, REFERENCE_TEMPERATURE, TEMPERATURES, Truth, compare


def two_sets(rows: int, vocabulary: int, seed: int, noise: float, scale: float) -> tuple[Tensor, Tensor]:
    """float64[N, V]: true logprobs, some of them -inf, and others near them, of which fewer are -inf."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64)
    logits[torch.rand(logits.shape, generator=generator) < 0.1] = -torch.inf
    logits[:, 0] = 1.0
    some = torch.where(torch.rand(logits.shape, generator=generator) < 0.5, logits, logits.clamp(min=-5.0))
    other = some + noise * torch.randn(logits.shape, generator=generator, dtype=torch.float64)
    return torch.log_softmax(logits, -1), torch.log_softmax(other, -1)


def defined(true: Tensor, stored: Tensor, first: Tensor) -> Tensor:
    """What `compare` says it gives, written from the definitions."""
    lines = []
    for temperature in TEMPERATURES:
        p, q = torch.softmax(true / temperature, -1), torch.softmax(stored / temperature, -1)
        lines.append(torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1))
    p, q = true.exp(), stored.exp()
    gradient = torch.softmax(true / REFERENCE_TEMPERATURE, -1) - p
    right = torch.stack([row[index] == row.max() for row, index in zip(true, first, strict=True)]).double()
    rare = [torch.where(p < RARE, mass, 0.0).sum(-1) for mass in (p, q)]
    return torch.stack([*lines, right, *rare, ((p - q) * gradient).sum(-1), (gradient**2).sum(-1)])


@given(
    rows=st.integers(1, 4),
    vocabulary=st.integers(2, 60),
    seed=st.integers(0, 1000),
    noise=st.sampled_from([0.0, 0.01, 1.0]),
    scale=st.sampled_from([0.1, 3.0, 12.0]),
)
def test_the_figures_are_those_defined(rows: int, vocabulary: int, seed: int, noise: float, scale: float) -> None:
    true, stored = two_sets(rows, vocabulary, seed, noise, scale)
    first = stored.argmax(-1)
    wanted = defined(true, stored, first)
    torch.testing.assert_close(compare(Truth.of(true, vocabulary), stored, first), wanted, rtol=1e-7, atol=1e-9)
    single = compare(Truth.of(true.float(), vocabulary), stored.float(), first)
    assert single.dtype == torch.float32
    torch.testing.assert_close(
        single[[0, 1, 2, 4, 5, 6, 7]].double(), wanted[[0, 1, 2, 4, 5, 6, 7]], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("logprob", [-1.0, -60.0, -200.0])
def test_a_token_that_can_come_and_has_no_mass_makes_the_kl_infinite(logprob: float) -> None:
    true = torch.log_softmax(torch.tensor([[0.0, logprob, -torch.inf], [0.0, logprob, -torch.inf]]), -1)
    stored = true.clone()
    stored[0, 1] = -torch.inf
    found = compare(Truth.of(true, 3), stored, torch.tensor([0, 0]))
    assert found[:3, 0].tolist() == [math.inf] * 3
    assert found[:3, 1].tolist() == pytest.approx([0.0] * 3, abs=1e-6)
    assert torch.isfinite(found[3:]).all()
