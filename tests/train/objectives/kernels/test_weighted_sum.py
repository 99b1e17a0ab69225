"""The fast losses against their slow twins: dense float64, written out, differentiated by PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives import SampledTargets, Targets
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.weighted_sum import WeightedSum, distillation_loss, softmax_
from tests.parts.largest import Largest
from tests.parts.targets import TAILS, targets_of, teacher_logits


def slow_loss(
    student: Tensor, targets: AnyTargets, gold: Tensor, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, KL and cross-entropy per row, from the definitions."""
    log_student = torch.log_softmax(student, -1)
    cross = -log_student.gather(1, gold[:, None]).squeeze(1)
    if isinstance(targets, SampledTargets):
        listed = log_student.gather(1, targets.ids_NK)
        divergence = -targets.entropy_N.double() - (targets.weights_NK.double() * listed).sum(-1)
    else:
        teacher = teacher_logits(targets, temperature)
        teacher = torch.log_softmax(teacher / temperature, -1)
        cooled = torch.log_softmax(student / temperature, -1)[:, : teacher.shape[1]]
        terms = teacher.exp() * (teacher.clamp(min=-1e4) - cooled)
        divergence = temperature**2 * torch.where(teacher.exp() > 0, terms, 0.0).sum(-1)
    return alpha * divergence + (1 - alpha) * cross, divergence, cross


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.3, 3.0), (0.0, 1.0)])
@pytest.mark.parametrize("padding", [0, 3])
def test_loss_and_gradient_are_the_dense_ones(tail: str, alpha: float, temperature: float, padding: int) -> None:
    if tail == "samples":
        temperature = 1.0
    targets = targets_of(tail, rows=7, k=4, vocabulary=41)
    student = torch.randn(7, 41 + padding, dtype=torch.float64, requires_grad=True)
    gold = torch.randint(41, (7,))
    loss, divergence, cross = slow_loss(student, targets, gold, alpha, temperature)
    (expected,) = torch.autograd.grad(loss.sum(), student)
    work = student.detach().clone()
    lines = distillation_loss(targets, gold, alpha=alpha, temperature=temperature, dtype=torch.float64)(
        work, slice(0, 7), 1.0
    )
    parts = [divergence] * (alpha > 0) + [cross] * (alpha < 1)
    torch.testing.assert_close(lines, torch.stack([loss, *parts]).detach(), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(work, expected, rtol=2e-5, atol=2e-6)


@given(
    rows=st.integers(1, 9),
    vocabulary=st.integers(2, 60),
    k=st.integers(1, 60),
    tail=st.sampled_from(TAILS),
    temperature=st.sampled_from([1.0, 1.7, 4.0]),
    chunk=st.integers(1, 10),
    seed=st.integers(0, 99),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    in_place=st.booleans(),
)
def test_any_shape_chunk_and_dtype_agrees_with_the_slow_loss(
    rows: int,
    vocabulary: int,
    k: int,
    tail: str,
    temperature: float,
    chunk: int,
    seed: int,
    dtype: torch.dtype,
    in_place: bool,
) -> None:
    temperature = 1.0 if tail == "samples" else temperature
    targets = targets_of(tail, rows, min(k, vocabulary), vocabulary, seed)
    draw = torch.Generator().manual_seed(seed)
    places = torch.randperm(rows + 4, generator=draw)[:rows].sort().values
    leaf = torch.randn(rows + 4, vocabulary, generator=draw).to(dtype).requires_grad_()
    weights, gold = torch.rand(rows, generator=draw), torch.randint(vocabulary, (rows,), generator=draw)
    weights[0] = 0
    wide = leaf.detach().double().requires_grad_()
    expected = (weights * slow_loss(wide[places], targets, gold, 0.5, temperature)[0]).sum()
    (reference,) = torch.autograd.grad(expected, wide)
    loss = distillation_loss(
        targets,
        gold,
        alpha=0.5,
        temperature=temperature,
        dtype=torch.float64 if dtype == torch.float64 else torch.float32,
    )
    student = leaf * 1 if in_place else leaf
    found, lines = from_logits(loss, student, places, weights, in_place=in_place, chunk=chunk)
    found.backward()
    assert leaf.grad is not None
    assert leaf.grad.dtype == dtype
    assert lines.shape == (3, rows)
    tolerance = {torch.bfloat16: 2e-2, torch.float16: 2e-3}.get(dtype, 1e-4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(leaf.grad.double(), reference, rtol=tolerance, atol=tolerance / 10)


def test_a_student_that_is_the_teacher_has_no_loss_and_no_gradient() -> None:
    targets = targets_of("prior", rows=5, k=4, vocabulary=30)
    assert isinstance(targets, Targets)
    student = dense_logprobs(targets).requires_grad_()
    loss = distillation_loss(targets, torch.zeros(5, dtype=torch.int64), alpha=1.0, temperature=1.0)
    total, lines = from_logits(loss, student, torch.arange(5))
    (gradient,) = torch.autograd.grad(total, student)
    assert lines.abs().max() < 1e-5
    assert gradient.abs().max() < 1e-6


def test_the_normaliser_is_right_where_any_token_has_too_little_probability_to_tell_it() -> None:
    logits = torch.tensor([[-200.0, 0.0, 1.0], [0.0, 0.0, 0.0], [-math.inf, 2.0, 2.0]])
    expected = logits.double().logsumexp(-1).float()
    work = logits.clone()
    torch.testing.assert_close(softmax_(work), expected)
    torch.testing.assert_close(work, torch.softmax(logits, -1))
    shifted = torch.randn(4, 50) + 1000
    torch.testing.assert_close(softmax_(shifted.clone()), shifted.logsumexp(-1))


def test_tokens_the_student_rules_out_cost_nothing_where_the_teacher_gives_them_nothing() -> None:
    targets = targets_of("none", rows=3, k=4, vocabulary=12)
    assert isinstance(targets, Targets)
    unlisted = [next(v for v in range(12) if v not in row) for row in targets.ids_NK.tolist()]
    student = torch.randn(3, 12)
    student[torch.arange(3), unlisted] = -math.inf
    loss = distillation_loss(targets, targets.ids_NK[:, 0], alpha=0.5, temperature=1.0)
    expected = slow_loss(student.double(), targets, targets.ids_NK[:, 0], 0.5, 1.0)[0]
    leaf = student.requires_grad_()
    total, lines = from_logits(loss, leaf, torch.arange(3))
    torch.testing.assert_close(lines[0].double(), expected, rtol=1e-5, atol=1e-5)
    total.backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()


def test_rows_that_do_not_count_add_neither_loss_nor_gradient_even_if_infinite() -> None:
    student = torch.zeros(2, 4)
    student[1, 2] = -math.inf
    leaf = student.requires_grad_()
    loss = distillation_loss(None, torch.tensor([1, 2]), alpha=0.0, temperature=1.0)
    total, lines = from_logits(loss, leaf, torch.arange(2), torch.tensor([1.0, 0.0]))
    total.backward()
    assert lines[0, 1] == math.inf
    assert total.item() == pytest.approx(math.log(4))
    assert leaf.grad is not None
    assert torch.equal(leaf.grad[1], torch.zeros(4))


def test_a_gradient_is_had_once_and_logits_given_up_are_missed() -> None:
    loss = distillation_loss(None, torch.tensor([1, 2]), alpha=0.0, temperature=1.0)
    leaf = torch.randn(2, 4, requires_grad=True)
    total, _ = from_logits(loss, leaf, torch.arange(2))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="taken already"):
        total.backward()
    logits = torch.tanh(leaf)  # needs its output for its own gradient
    total, _ = from_logits(loss, logits, torch.arange(2), in_place=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("weighting", ["one", "each"])
def test_in_float16_small_weights_of_rows_do_not_swallow_the_gradient(weighting: str) -> None:
    """As in a step of a hundred thousand rows, whose loss is scaled up before the backward pass."""
    rows, scale = 8, 2.0**16
    weights = 1e-5 if weighting == "one" else torch.full((rows,), 1e-5)
    loss = distillation_loss(None, torch.arange(rows), alpha=0.0, temperature=1.0)
    hidden, weight = torch.randn(rows, 6), torch.randn(50, 6)
    found = []
    for dtype in (torch.float32, torch.float16):
        leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
        total, _ = from_hidden(loss, leaves[0], LinearHead(leaves[1]), torch.arange(rows), weights, dtype=dtype)
        (total * scale).backward()
        logits = (hidden @ weight.T).to(dtype).requires_grad_()
        (from_logits(loss, logits, torch.arange(rows), weights)[0] * scale).backward()
        found.append([each.grad.float() for each in (*leaves, logits) if each.grad is not None])
    for exact, narrow in zip(*found, strict=True):
        assert (exact - narrow).norm() < 5e-3 * exact.norm()


def test_surrounding_autocast_and_no_grad_change_nothing_but_what_they_say() -> None:
    targets = targets_of("prior", rows=4, k=3, vocabulary=50)
    loss = distillation_loss(targets, torch.zeros(4).long(), alpha=0.5, temperature=1.0)
    logits, hidden, head = torch.randn(4, 50), torch.randn(4, 6), LinearHead(torch.randn(50, 6, requires_grad=True))
    plain = from_logits(loss, logits, torch.arange(4))[1], from_hidden(loss, hidden, head, torch.arange(4))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        again = from_logits(loss, logits, torch.arange(4))[1], from_hidden(loss, hidden, head, torch.arange(4))[1]
        with Largest() as largest:
            total, _ = from_hidden(loss, hidden, head, torch.arange(4))
    assert not total.requires_grad
    assert largest.elements < 50 * 6
    assert all(torch.equal(one, two) for one, two in zip(plain, again, strict=True))


def test_a_student_may_rule_out_what_a_sketch_gives_no_mass() -> None:
    targets = targets_of("latent", rows=3, k=4, vocabulary=12)
    assert isinstance(targets, Targets)
    logprobs = torch.log_softmax(targets.logprobs_NK, -1)
    certain = Targets(targets.ids_NK, logprobs, torch.full((3,), -math.inf), targets.tail, targets.latent)
    student = torch.randn(3, 12)
    student[:, 11] = torch.where((targets.ids_NK == 11).any(1), student[:, 11], -math.inf)
    expected = slow_loss(student.double(), certain, torch.zeros(3).long(), 1.0, 1.0)[0]
    loss = distillation_loss(certain, torch.zeros(3).long(), alpha=1.0, temperature=1.0)
    torch.testing.assert_close(
        from_logits(loss, student, torch.arange(3))[1][0].double(), expected, rtol=1e-4, atol=1e-5
    )


def test_a_kl_without_targets_is_refused_not_dropped() -> None:
    with pytest.raises(ValueError, match="no KL without targets"):
        distillation_loss(None, torch.zeros(2).long(), alpha=0.5, temperature=1.0)


def test_whole_numbers_are_weights_too() -> None:
    loss = distillation_loss(None, torch.arange(3), alpha=0.0, temperature=1.0)
    logits, rows = torch.randn(3, 5), torch.arange(3)
    assert torch.equal(from_logits(loss, logits, rows, 1)[0], from_logits(loss, logits, rows, 1.0)[0])


def test_without_rows_there_is_no_loss() -> None:
    loss = distillation_loss(None, torch.zeros(0, dtype=torch.int64), alpha=0.0, temperature=1.0)
    leaf, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    for total in (from_logits(loss, leaf, nothing)[0], from_hidden(loss, leaf, LinearHead(weight), nothing)[0]):
        total.backward()
        assert total.item() == 0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_samples_at_another_temperature_are_refused() -> None:
    with pytest.raises(BadInput, match="temperature 1 only"):
        distillation_loss(targets_of("samples", 2, 2, 5), torch.zeros(2).long(), alpha=1.0, temperature=2.0)


def test_the_lines_do_not_depend_on_the_scale() -> None:
    targets = targets_of("uniform", rows=3, k=2, vocabulary=8)
    loss = distillation_loss(targets, torch.zeros(3).long(), alpha=0.5, temperature=1.0)
    assert isinstance(loss, WeightedSum)
    one, two = torch.randn(3, 8), torch.zeros(3, 8)
    two.copy_(one)
    assert torch.equal(loss(one, slice(0, 3), 1.0), loss(two, slice(0, 3), 0.5))
    torch.testing.assert_close(one, 2 * two)
