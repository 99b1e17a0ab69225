"""The divergences against dense float64 definitions, at their limits, and their identities."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from logitstore.train.objectives import (
    Targets,
    forward_kl,
    from_hidden,
    from_logits,
    jensen_shannon,
    lumped_kl,
    reverse_kl,
)
from logitstore.train.objectives.kernels.by_autograd import ByAutograd, Term
from logitstore.train.objectives.logits.adaptive_kl import adaptive_kl
from logitstore.train.objectives.logits.divergences import symmetric_kl, total_variation
from logitstore.train.objectives.logits.skew_kl import skew_forward_kl, skew_reverse_kl
from tests.parts.targets import targets_of, teacher_logits

ROWS, VOCABULARY = 6, 37


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log(), 0.0).sum(-1)


def back(p: Tensor, s: Tensor) -> Tensor:
    """KL(s || p) over the teacher's vocabulary, and what the student loses to other tokens."""
    known = s[..., :VOCABULARY].sum(-1)
    return kl(s[..., :VOCABULARY] / known[..., None], p[..., :VOCABULARY]) - known.log()


def reference_adaptive(p: Tensor, s: Tensor) -> Tensor:
    found = []
    for p_V, s_V in zip(p, s, strict=True):
        order = p_V.argsort(descending=True).tolist()
        before, head, everything = 0.0, 0.0, 0.0
        for v in order:
            gap = abs(float((p_V[v] - s_V[v]).detach()))
            head, everything, before = head + gap * (before < 0.5), everything + gap, before + float(p_V[v].detach())
        weight = head / everything
        found.append(weight * kl(p_V, s_V) + (1 - weight) * back(p_V, s_V))
    return torch.stack(found)


DIVERGENCES: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor], int]] = {
    "forward": (forward_kl, kl, 2),
    "reverse": (reverse_kl, back, 2),
    "symmetric": (symmetric_kl, lambda p, s: (kl(p, s) + back(p, s)) / 2, 2),
    "Jensen-Shannon": (
        jensen_shannon,
        lambda p, s: (kl(p, (p + s) / 2) + kl(s, (p + s) / 2)) / 2,
        2,
    ),
    "total variation": (total_variation, lambda p, s: (p - s).abs().sum(-1) / 2, 0),
    "skew forward": (skew_forward_kl, lambda p, s: kl(p, 0.1 * p + 0.9 * s), 2),
    "skew reverse": (skew_reverse_kl, lambda p, s: kl(s, 0.1 * s + 0.9 * p), 2),
    "adaptive": (adaptive_kl, reference_adaptive, 2),
}
"""Ours, the definition from probabilities, and the power of T before it."""


def targets_with(tail: str) -> Targets:
    found = targets_of(tail, ROWS, 5, VOCABULARY)
    assert isinstance(found, Targets)
    return found


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("tail", ["uniform", "prior", "latent"])
@pytest.mark.parametrize(("temperature", "more"), [(1.0, 0), (2.0, 0), (1.0, 3), (2.0, 3)])
def test_each_is_its_definition_and_so_is_its_gradient(name: str, tail: str, temperature: float, more: int) -> None:
    """Also of a student with more tokens than the teacher, to which the teacher gives no mass."""
    ours, definition, power = DIVERGENCES[name]
    targets = targets_with(tail)
    student = torch.randn(ROWS, VOCABULARY + more, dtype=torch.float64, requires_grad=True)
    teacher = torch.softmax(teacher_logits(targets, temperature) / temperature, -1)
    teacher = torch.nn.functional.pad(teacher, (0, more))
    expected = temperature**power * definition(teacher, torch.softmax(student / temperature, -1))
    found = ours(student, targets, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    (gradient,) = torch.autograd.grad(found.sum(), student, retain_graph=True)
    (reference,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_tokens_that_only_the_student_knows_cost_something_and_are_pushed_down(name: str) -> None:
    """By a student that is right but for them."""
    targets = targets_with("prior")
    student = torch.nn.functional.pad(dense_logprobs(targets).double(), (0, 2), value=-3.0).requires_grad_()
    found = DIVERGENCES[name][0](student, targets)
    assert found.isfinite().all()
    assert (found > 1e-4).all()
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert (gradient[:, VOCABULARY:] > 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_is_the_teacher_is_at_the_minimum(name: str) -> None:
    targets = targets_with("prior")
    student = dense_logprobs(targets).double().requires_grad_()
    found = DIVERGENCES[name][0](student, targets)
    assert found.abs().max() < 1e-5
    if name != "total variation":  # which has a kink there
        (gradient,) = torch.autograd.grad(found.sum(), student)
        assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_reduced_in_float32(name: str, dtype: torch.dtype) -> None:
    ours, targets = DIVERGENCES[name][0], targets_with("prior")
    student = torch.randn(ROWS, VOCABULARY).to(dtype)
    found = ours(student, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), ours(student.double(), targets), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "forward"])
def test_random_samples_give_no_distribution(name: str) -> None:
    with pytest.raises(BadInput, match="random samples"):
        DIVERGENCES[name][0](torch.randn(2, 9), targets_of("samples", 2, 3, 9))


def test_limits_of_the_skew_and_of_the_head() -> None:
    targets = targets_with("prior")
    student = torch.randn(ROWS, VOCABULARY, dtype=torch.float64)
    torch.testing.assert_close(
        skew_forward_kl(student, targets, skew=1e-20), forward_kl(student, targets), rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        skew_reverse_kl(student, targets, skew=1e-20), reverse_kl(student, targets), rtol=1e-4, atol=1e-6
    )
    assert (skew_forward_kl(30 * student, targets, skew=0.1) <= math.log(10) + 1e-5).all()
    torch.testing.assert_close(
        adaptive_kl(student, targets, head=1.1), forward_kl(student, targets), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        adaptive_kl(student, targets, head=0.0), reverse_kl(student, targets), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("skewed", [skew_forward_kl, skew_reverse_kl])
@pytest.mark.parametrize("skew", [0.0, 1.0, -0.1, math.nan])
def test_a_skew_has_no_ends(skewed: Callable[..., Tensor], skew: float) -> None:
    with pytest.raises(BadInput, match="above 0 and below 1"):
        skewed(torch.randn(ROWS, VOCABULARY), targets_with("prior"), skew=skew)


def test_identities_between_them() -> None:
    """Pinsker's inequality, the bound of JS by log 2, acceptance = 1 - TV, and lumping as a lower bound."""
    targets = targets_with("latent")
    student = torch.randn(ROWS, VOCABULARY, dtype=torch.float64) * 3
    variation = total_variation(student, targets)
    assert (variation <= (forward_kl(student, targets) / 2).sqrt() + 1e-6).all()
    assert (jensen_shannon(student, targets) <= math.log(2)).all()
    teacher = dense_logprobs(targets).double().exp()
    accepted = torch.minimum(teacher, torch.softmax(student, -1)).sum(-1)
    torch.testing.assert_close(1 - variation, accepted, rtol=1e-4, atol=1e-6)
    assert (lumped_kl(student, targets) <= forward_kl(student, targets) + 1e-5).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_from_logits_and_from_hidden_states_give_the_same(name: str) -> None:
    ours, targets = DIVERGENCES[name][0], targets_with("prior")
    rows, weights = torch.tensor([0, 1, 3, 4, 6, 7]), torch.rand(ROWS)
    loss = ByAutograd([Term(name, 0.7, lambda z, some: ours(z, targets[some], temperature=2.0))])
    hidden, weight = torch.randn(8, 5, requires_grad=True), torch.randn(VOCABULARY, 5, requires_grad=True)
    plain = (weights * 0.7 * ours((hidden @ weight.T)[rows], targets, temperature=2.0)).sum()
    expected = torch.autograd.grad(plain, (hidden, weight))
    for total, lines in (
        from_hidden(loss, hidden, LinearHead(weight), rows, weights, block=4),
        from_logits(loss, hidden @ weight.T, rows, weights, in_place=True, chunk=2),
    ):
        torch.testing.assert_close(total, plain, rtol=1e-4, atol=1e-5)
        assert lines.shape == (2, ROWS)
        for found, reference in zip(
            torch.autograd.grad(total, (hidden, weight), retain_graph=True), expected, strict=True
        ):
            torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-5)
