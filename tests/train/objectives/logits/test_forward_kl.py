"""The forward KL against dense float64 references written out from its definition."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.targets.dense import dense
from logitstore.train.objectives import FixedTail, Targets, forward_kl
from tests.parts.dense_kl import make_targets, reference_kl

TEMPERATURES = (1.0, 2.0, 4.0)


@pytest.mark.parametrize("tail", ["uniform", "prior"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_forward_kl_is_the_dense_reference(tail: str, temperature: float) -> None:
    targets, stored = make_targets(rows=7, k=5, vocabulary=60, tail=tail)
    student = torch.randn(7, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = forward_kl(student, targets, temperature=temperature)
    torch.testing.assert_close(found, reference_kl(student, stored, temperature), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("tail", ["uniform", "prior"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_its_gradient_passes_gradcheck_and_is_that_of_the_reference(tail: str, temperature: float) -> None:
    targets, stored = make_targets(rows=3, k=4, vocabulary=15, tail=tail)
    student = torch.randn(3, 15, dtype=torch.float64, requires_grad=True)
    # the tail's weights are kept in float32; cast up, so that finite differences see one function
    assert torch.autograd.gradcheck(lambda z: forward_kl(z, targets, temperature=temperature), student, atol=1e-6)
    (found,) = torch.autograd.grad(forward_kl(student, targets, temperature=temperature).sum(), student)
    (expected,) = torch.autograd.grad(reference_kl(student, stored, temperature).sum(), student)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_its_gradient_is_t_times_the_difference_of_the_distributions(temperature: float) -> None:
    targets, _ = make_targets(rows=4, k=3, vocabulary=30, tail="prior")
    student = torch.randn(4, 30, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(forward_kl(student, targets, temperature=temperature).sum(), student)
    difference = torch.softmax(student / temperature, -1) - dense(targets, temperature).double()
    torch.testing.assert_close(found, temperature * difference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tail", ["uniform", "prior"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_with_every_token_listed_it_is_the_full_kl(tail: str, temperature: float) -> None:
    targets, stored = make_targets(rows=6, k=40, vocabulary=40, tail=tail)
    assert torch.isinf(targets.tail_logmass_N).all()
    student = torch.randn(6, 40, dtype=torch.float64)
    found = forward_kl(student, targets, temperature=temperature)
    torch.testing.assert_close(found, reference_kl(student, stored, temperature))


def test_it_is_zero_and_flat_where_the_student_is_the_teacher() -> None:
    targets, stored = make_targets(rows=5, k=4, vocabulary=50, tail="prior")
    student = stored.log().requires_grad_()
    loss = forward_kl(student, targets)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    torch.testing.assert_close(loss, torch.zeros_like(loss), atol=1e-7, rtol=0)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@given(
    rows=st.integers(1, 5),
    vocabulary=st.integers(2, 80),
    data=st.data(),
    tail=st.sampled_from(["uniform", "prior"]),
    temperature=st.floats(0.5, 8),
    seed=st.integers(0, 10_000),
)
def test_any_shape_agrees_with_the_reference(
    rows: int, vocabulary: int, data: st.DataObject, tail: str, temperature: float, seed: int
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    targets, stored = make_targets(rows, k, vocabulary, tail, seed)
    student = 4 * torch.randn(rows, vocabulary, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    found = forward_kl(student, targets, temperature=temperature)
    assert (found > -1e-6).all()
    torch.testing.assert_close(found, reference_kl(student, stored, temperature), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision_logits_are_reduced_in_float32(dtype: torch.dtype) -> None:
    targets, stored = make_targets(rows=6, k=5, vocabulary=70, tail="prior")
    student = torch.randn(6, 70).to(dtype)
    for temperature in TEMPERATURES:
        found = forward_kl(student, targets, temperature=temperature)
        assert found.dtype == torch.float32
        expected = reference_kl(student, stored, temperature).float()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_padding_columns_of_the_student_count_as_tokens_without_teacher_mass() -> None:
    targets, stored = make_targets(rows=4, k=3, vocabulary=20, tail="prior")
    student = torch.randn(4, 26, dtype=torch.float64)
    padded = torch.nn.functional.pad(stored, (0, 6))
    torch.testing.assert_close(forward_kl(student, targets), reference_kl(student, padded, 1.0), rtol=1e-6, atol=1e-9)
    student[:, 20:] = -torch.inf
    found = forward_kl(student.requires_grad_(), targets)
    torch.testing.assert_close(found, reference_kl(student[:, :20], stored, 1.0), rtol=1e-6, atol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert torch.isfinite(gradient).all()


def test_listed_tokens_that_cannot_come_add_nothing() -> None:
    logprobs = torch.tensor([[math.log(0.5), math.log(0.5), -torch.inf]], dtype=torch.float64)
    targets = Targets(torch.tensor([[2, 0, 4]]), logprobs, torch.tensor([-torch.inf]), FixedTail.uniform(6))
    student = torch.randn(1, 6, dtype=torch.float64, requires_grad=True)
    loss = forward_kl(student, targets, temperature=2.0)
    expected = reference_kl(student, torch.tensor([[0.5, 0, 0.5, 0, 0, 0]], dtype=torch.float64), 2.0)
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(torch.autograd.grad(loss.sum(), student)[0]).all()


def test_a_tiny_tail_keeps_its_logarithm() -> None:
    targets, _ = make_targets(rows=1, k=2, vocabulary=30, tail="uniform")
    tiny = Targets(targets.ids_NK, torch.tensor([[-1e-9, -25.0]]), torch.tensor([-22.0]), targets.tail)
    student = torch.randn(1, 30, dtype=torch.float64)
    found = forward_kl(student, tiny, temperature=4.0)
    stored = torch.full((1, 30), math.exp(-22.0) / 28, dtype=torch.float64)
    stored[0, tiny.ids_NK[0]] = tiny.logprobs_NK[0].double().exp()
    torch.testing.assert_close(found, reference_kl(student, stored, 4.0), rtol=1e-5, atol=1e-8)
