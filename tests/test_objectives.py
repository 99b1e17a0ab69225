"""The losses against dense float64 references written out from their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.objectives import FixedTail, Targets, cross_entropy, forward_kl, lumped_kl, rowwise
from logitstore.targets import dense, temper

TEMPERATURES = (1.0, 2.0, 4.0)


def make_targets(rows: int, k: int, vocabulary: int, tail: str, seed: int = 0) -> tuple[Targets, Tensor]:
    """Sparse targets from a random sharp teacher, and the dense float64 distribution they stand for at T = 1."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.softmax(3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64), -1)
    ids = full.topk(k).indices
    prior = torch.rand(vocabulary, generator=generator, dtype=torch.float64) ** 3 + 1e-3
    weights = prior if tail == "prior" else torch.ones(vocabulary, dtype=torch.float64)
    shape = FixedTail.prior(prior) if tail == "prior" else FixedTail.uniform(vocabulary)
    outside = torch.ones_like(full).scatter(1, ids, 0.0)
    mass = (full * outside).sum(-1, keepdim=True)
    spread = outside * weights
    share = torch.where(spread.sum(-1, keepdim=True) > 0, spread / spread.sum(-1, keepdim=True).clamp(min=1e-300), 0.0)
    stored = torch.where(outside > 0, mass * share, full)
    targets = Targets(ids, full.gather(1, ids).log(), mass.squeeze(1).log(), shape)
    return targets, stored


def reference_kl(student: Tensor, stored: Tensor, temperature: float) -> Tensor:
    """T**2 KL(p_T || s_T), dense, float64; p_T is proportional to p ** (1 / T)."""
    powered = torch.where(stored > 0, stored, 1.0).pow(1 / temperature) * (stored > 0)
    teacher = powered / powered.sum(-1, keepdim=True)
    log_student = torch.log_softmax(student.double() / temperature, -1)
    return temperature**2 * (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1)


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


@given(k=st.integers(1, 30), seed=st.integers(0, 1000))
def test_the_lumped_kl_is_a_lower_bound_and_exact_when_all_is_listed(k: int, seed: int) -> None:
    targets, stored = make_targets(4, k, 30, "prior", seed)
    student = 2 * torch.randn(4, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    lumped, full = lumped_kl(student, targets), reference_kl(student, stored, 1.0)
    assert (lumped >= -1e-9).all()
    assert (lumped <= full + 1e-9).all()
    if k == 30:
        torch.testing.assert_close(lumped, full)


def test_the_lumped_kl_is_the_kl_of_the_distributions_with_one_rest_token() -> None:
    targets, stored = make_targets(rows=3, k=4, vocabulary=25, tail="uniform")
    student = torch.randn(3, 25, dtype=torch.float64)
    probs = torch.softmax(student, -1)
    teacher = torch.cat([stored.gather(1, targets.ids_NK), targets.tail_logmass_N.exp()[:, None]], 1)
    kept = probs.gather(1, targets.ids_NK)
    lumped_student = torch.cat([kept, 1 - kept.sum(-1, keepdim=True)], 1)
    expected = (torch.xlogy(teacher, teacher) - teacher * lumped_student.log()).sum(-1)
    torch.testing.assert_close(lumped_kl(student, targets), expected)


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


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_rowwise_gives_the_same_loss_and_gradient_whatever_the_chunk(chunk: int) -> None:
    targets, _ = make_targets(rows=9, k=4, vocabulary=33, tail="prior")
    student = torch.randn(20, 33, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 1, 2, 5, 6, 11, 12, 18, 19])
    weights = torch.rand(9, dtype=torch.float64)
    found = rowwise(lambda z, some: forward_kl(z, targets[some]), student, rows, chunk)
    expected = forward_kl(student[rows], targets)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad((found * weights).sum(), student)
    (reference,) = torch.autograd.grad((expected * weights).sum(), student)
    torch.testing.assert_close(gradient, reference)
    gold = torch.randint(0, 33, (9,))
    assert torch.autograd.gradcheck(
        lambda z: rowwise(lambda x, some: cross_entropy(x, gold[some]), z, rows, chunk) * weights, student
    )


def test_rowwise_never_holds_a_float32_copy_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def loss(logits: Tensor, some: slice) -> Tensor:
        seen.append(len(logits))
        return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))

    student = torch.randn(50, 11, dtype=torch.bfloat16, requires_grad=True)
    total = rowwise(loss, student, torch.arange(50), 8).sum()
    total.backward()
    assert max(seen) == 8
    assert sum(seen) == 50
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16


def test_cross_entropy_is_the_negative_log_of_the_gold_probability() -> None:
    student = torch.randn(5, 9, dtype=torch.float64)
    gold = torch.tensor([0, 8, 3, 3, 1])
    expected = -torch.softmax(student, -1)[torch.arange(5), gold].log()
    torch.testing.assert_close(cross_entropy(student, gold), expected)
