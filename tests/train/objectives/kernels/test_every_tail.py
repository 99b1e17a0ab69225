"""Every divergence on every tail, against the dense definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs, temper
from logitstore.targets.tails import FixedTail, LatentTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives import forward_kl, jensen_shannon, lumped_kl, renormalised_kl, reverse_kl

TAILS = ["none", "uniform", "prior", "latent", "head"]
TEMPERATURES = [1.0, 2.0, 4.0]


def targets_of(tail: str, seed: int, rows: int = 4, k: int = 3, vocabulary: int = 17) -> tuple[Targets, Tensor]:
    """Targets with a tail, and float64 logprobs [N, V] of the distribution they stand for."""
    generator = torch.Generator().manual_seed(seed)
    latent = torch.randn(rows, 5, generator=generator)
    weight, base, bias = (
        torch.randn(*shape, generator=generator) for shape in ((vocabulary, 5), (vocabulary,), (vocabulary,))
    )
    prior = torch.rand(vocabulary, generator=generator) + 0.01
    shapes = {"prior": FixedTail.prior(prior), "latent": LatentTail(LinearHead(weight, base, cap=2.0), bias)}
    shapes["head"] = LatentTail(LinearHead(weight, base), torch.zeros(vocabulary))
    shape = shapes.get(tail, FixedTail.uniform(vocabulary))
    linear = latent.double() @ weight.double().T + base.double()
    logits = {
        "prior": prior.double().log().expand(rows, -1),
        "latent": 2 * torch.tanh(linear / 2) + bias,
        "head": linear,
    }
    tail_NV = logits.get(tail, torch.zeros(rows, vocabulary, dtype=torch.float64))
    if tail == "head":
        none = torch.zeros(rows, 0)
        return Targets(none.long(), none, torch.zeros(rows), shape, latent), torch.log_softmax(tail_NV, -1)
    full = torch.log_softmax(3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64), -1)
    listed, ids = full.topk(k)
    mass = torch.full((rows,), -torch.inf).double() if tail == "none" else full.scatter(1, ids, -torch.inf).logsumexp(1)
    listed = torch.log_softmax(listed, -1) if tail == "none" else listed
    stored = torch.log_softmax(tail_NV.scatter(1, ids, -torch.inf), -1) + mass[:, None]
    targets = Targets(ids, listed.float(), mass.float(), shape, latent if tail == "latent" else None)
    return targets, stored.scatter(1, ids, listed)


def kl_of(p: Tensor, q: Tensor) -> Tensor:
    """KL of logprobs [N, V], nats."""
    return torch.where(p > -torch.inf, p.exp() * (p.clamp(min=-1e3) - q), 0.0).sum(-1)


def tempered_by_bias(targets: Targets, stored: Tensor, temperature: float) -> Tensor:
    """What is divided by the temperature: (1 / T - 1) times the bias is added where a tail of its own gives the token."""
    if not isinstance(targets.tail, LatentTail):
        return stored
    return stored + ((1 / temperature - 1) * targets.tail.shift_V.double()).expand_as(stored).scatter(
        1, targets.ids_NK, 0.0
    )


@pytest.mark.parametrize("tail", TAILS)
@given(seed=st.integers(0, 1000), first=st.floats(0.5, 4), second=st.floats(0.5, 4))
def test_temperatures_compose(tail: str, seed: int, first: float, second: float) -> None:
    targets, stored = targets_of(tail, seed)
    stored = tempered_by_bias(targets, stored, first * second)
    both, true = dense_logprobs(targets, first * second), torch.log_softmax(stored / (first * second), -1)
    if tail != "latent":  # the bias of a sketch counts 1 / T, which does not compose
        torch.testing.assert_close(
            both, torch.log_softmax(dense_logprobs(targets, first) / second, -1), atol=1e-4, rtol=1e-5
        )
    torch.testing.assert_close(both.double(), true, atol=1e-4, rtol=1e-5)
    if isinstance(targets.tail, FixedTail):
        tempered = temper(targets, first * second)
        torch.testing.assert_close(tempered.logprobs_NK, true.gather(1, targets.ids_NK), atol=1e-5, rtol=1e-5)
        rest = true.scatter(1, targets.ids_NK, -torch.inf).logsumexp(1)
        torch.testing.assert_close(tempered.tail_logmass_N, rest, atol=1e-5, rtol=1e-5)


def jensen_shannon_of(p: Tensor, q: Tensor) -> Tensor:
    middle = torch.logaddexp(p.clamp(min=-1e3), q) - math.log(2)
    return (kl_of(p, middle) + kl_of(q, middle)) / 2


REFERENCES: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    forward_kl: kl_of,
    reverse_kl: lambda p, s: kl_of(s, p),
    jensen_shannon: jensen_shannon_of,
}


@pytest.mark.parametrize("objective", REFERENCES, ids=lambda objective: objective.__name__)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_every_divergence_and_its_gradient_are_the_dense_ones(objective: Any, tail: str, temperature: float) -> None:
    targets, stored = targets_of(tail, seed=5)
    stored = tempered_by_bias(targets, stored, temperature)
    student = torch.randn(4, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    found = objective(student, targets, temperature=temperature)
    if objective is reverse_kl and tail == "none":
        assert torch.isposinf(found).all()
        return
    teacher = torch.log_softmax(stored / temperature, -1)
    wanted = temperature**2 * REFERENCES[objective](teacher, torch.log_softmax(student / temperature, -1))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    gradients = [torch.autograd.grad(loss.sum(), student)[0] for loss in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)
    at_home = objective(stored.clamp(min=-1e3), targets, temperature=temperature)
    torch.testing.assert_close(at_home, torch.zeros(4).double(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("tail", [tail for tail in TAILS if tail != "head"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_the_losses_on_the_list_are_the_dense_ones(tail: str, temperature: float) -> None:
    targets, stored = targets_of(tail, seed=5)
    student = torch.randn(4, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    ids, logprobs = targets.ids_NK, torch.log_softmax(student / temperature, -1)
    listed = torch.log_softmax(stored.gather(1, ids) / temperature, -1)
    found = renormalised_kl(student, targets, temperature=temperature)
    pairs = [(found, temperature**2 * kl_of(listed, logprobs.gather(1, ids)))]
    if temperature == 1:
        rest = [whole.scatter(1, ids, -torch.inf).logsumexp(1, keepdim=True) for whole in (stored, logprobs)]
        lumped = [torch.cat([whole.gather(1, ids), rest[i]], 1) for i, whole in enumerate((stored, logprobs))]
        pairs.append((lumped_kl(student, targets), kl_of(*lumped)))
        torch.testing.assert_close(lumped_kl(stored, targets), torch.zeros(4).double(), rtol=0, atol=1e-5)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        gradients = [torch.autograd.grad(loss.sum(), student, retain_graph=True)[0] for loss in (found, wanted)]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("padding", [-torch.inf, -300.0])
def test_the_reverse_kl_has_a_gradient_where_the_student_gives_no_mass(padding: float) -> None:
    targets, _ = targets_of("prior", seed=5)
    student = torch.nn.functional.pad(torch.randn(4, 17), (0, 2), value=padding).requires_grad_()
    found = reverse_kl(student, targets)
    assert torch.isfinite(found).all()
    assert torch.isfinite(torch.autograd.grad(found.sum(), student)[0]).all()
