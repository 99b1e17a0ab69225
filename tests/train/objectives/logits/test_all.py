"""Every objective on logits against its float64 reference, at its limits, and its identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives import Targets
from logitstore.train.objectives.logits.adaptive_kl import balanced_kl
from logitstore.train.objectives.logits.dist import dist
from logitstore.train.objectives.logits.dkd import dkd, one_for_all
from logitstore.train.objectives.logits.plackett_luce import plackett_luce
from logitstore.train.objectives.logits.sinkhorn import sinkhorn_distance
from logitstore.train.objectives.logits.standardised_kl import standardised_kl
from logitstore.train.objectives.logits.taid import taid
from tests.parts.row_references import (
    DISTRIBUTIONS,
    GOLD,
    LISTED,
    ROWS,
    VOCABULARY,
    a_student,
    at,
    kl,
    pearson,
    reference_plackett_luce,
    targets_with,
    teacher_beside,
    whole,
)
from tests.parts.targets import targets_of


def entropy(p: Tensor) -> Tensor:
    return -torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0.0).sum(-1)


def reference_dkd(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student, temperature)
    found = []
    for teacher_V, student_V, y in zip(teacher, student, gold.tolist(), strict=True):
        p, s = at(teacher_V, temperature), at(student_V, temperature)
        others = [v for v in range(len(p)) if v != y]
        p_rest, s_rest = p[others].sum(), s[others].sum()
        target = kl(torch.stack([p[y], p_rest]), torch.stack([s[y], s_rest]))
        found.append(temperature**2 * (target + 0.5 * kl(p[others] / p_rest, s[others] / s_rest)))
    return torch.stack(found)


def reference_dist(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student, temperature)
    p, s = at(teacher, temperature)[:, :VOCABULARY], at(student, temperature)[:, :VOCABULARY]
    tokens = [v for v in range(VOCABULARY) if p[:, v].max() > p[:, v].min()]
    within = torch.stack([1 - pearson(p_V, s_V) for p_V, s_V in zip(p, s, strict=True)])
    across = torch.stack([1 - pearson(p[:, v], s[:, v]) for v in tokens]).mean()
    return temperature**2 * (within + across)


def reference_sinkhorn(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student, temperature)
    p, s = at(teacher, temperature), at(student, temperature)
    cost = (s[:, None] - p[None]).abs().sum(-1)
    plan = (-cost / 0.1).exp()
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum(1)


def reference_taid(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student, temperature)
    z = student / temperature
    target = torch.softmax(0.6 * z.detach() + 0.4 * teacher / temperature, -1)
    return temperature**2 * -torch.where(target > 0, target * torch.log_softmax(z, -1), 0.0).sum(-1)


def reference_balanced(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    plain, tempered = (teacher_beside(targets, student, t) for t in (1.0, temperature))
    found = []
    for plain_V, teacher_V, student_V in zip(plain, tempered, student, strict=True):
        forward, reverse = (2, 1) if entropy(at(student_V, 1.0)) < entropy(at(plain_V, 1.0)) else (1, 2)
        p, s = at(teacher_V, temperature), at(student_V, temperature)
        known = s[:VOCABULARY].sum()
        back = kl(s[:VOCABULARY] / known, p[:VOCABULARY]) - known.log()
        found.append(temperature**2 * (forward * kl(p, s) + reverse * back))
    return torch.stack(found)


def reference_standardised(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    found = []
    for teacher_V, student_V in zip(teacher, student, strict=True):
        known, own = teacher_V[torch.isfinite(teacher_V)], student_V[:VOCABULARY]
        p = torch.softmax((teacher_V - known.mean()) / known.std(correction=1) / temperature, -1)
        s = torch.softmax((student_V - own.mean()) / own.std(correction=1) / temperature, -1)
        found.append(temperature**2 * kl(p, s))
    return torch.stack(found)


@dataclass(frozen=True)
class Case:
    """An objective with options, and its reference: (targets, student's logits, gold, temperature) -> loss."""

    function: Callable[..., Tensor]
    reference: Callable[[Targets, Tensor, Tensor, float], Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    takes_gold: bool = False
    is_of_the_rows_together: bool = False
    is_zero_for_the_teacher: bool = True

    def __call__(self, student: Tensor, targets: AnyTargets, gold: Tensor = GOLD, **options: Any) -> Tensor:
        return self.function(student, targets, *([gold] if self.takes_gold else []), **{**self.options, **options})


def reference_one_for_all(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student, temperature)
    found = []
    for teacher_V, student_V, y in zip(teacher, student, gold.tolist(), strict=True):
        p, s = at(teacher_V, temperature), at(student_V, temperature)
        terms = [-((p[v] + float(v == y)) ** 1.5 - float(v == y)) * s[v].log() for v in range(len(p)) if p[v] > 0]
        found.append(torch.stack(terms).sum())
    return torch.stack(found)


CASES = {
    "one_for_all": Case(one_for_all, reference_one_for_all, takes_gold=True, is_zero_for_the_teacher=False),
    "dkd": Case(dkd, reference_dkd, takes_gold=True),
    "dist": Case(dist, reference_dist, is_of_the_rows_together=True),
    "sinkhorn": Case(
        sinkhorn_distance, reference_sinkhorn, is_of_the_rows_together=True, is_zero_for_the_teacher=False
    ),
    "plackett_luce": Case(
        plackett_luce, reference_plackett_luce, {"listed": LISTED}, takes_gold=True, is_zero_for_the_teacher=False
    ),
    "taid": Case(taid, reference_taid, {"t": 0.4}, is_zero_for_the_teacher=False),
    "balanced": Case(balanced_kl, reference_balanced),
    "standardised": Case(standardised_kl, reference_standardised),
}
SERVED = [(name, tail) for name in CASES for tail in DISTRIBUTIONS if (name, tail) != ("standardised", "none")]


@pytest.mark.parametrize(("name", "tail"), SERVED)
@pytest.mark.parametrize(("temperature", "more"), [(1.0, 0), (2.0, 3)])
def test_each_is_its_definition_and_so_is_its_gradient(name: str, tail: str, temperature: float, more: int) -> None:
    case, targets = CASES[name], targets_with(tail)
    student = a_student(ROWS, VOCABULARY + more).requires_grad_()
    expected = case.reference(targets, student, GOLD, temperature)
    found = case(student, targets, temperature=temperature)
    assert found.dtype == torch.float64
    assert found.shape == (ROWS,)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    if name == "balanced" and tail == "none":
        assert found.isposinf().all()
        return
    (gradient,) = torch.autograd.grad(found.sum(), student)
    (reference,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    targets, student = whole(a_student(3, 5, dtype=torch.float32, seed=2)), a_student(3, 5).requires_grad_()
    # at any other t its target moves with the student, but is held
    options = {"t": 1.0} if name == "taid" else {"iterations": 5} if name == "sinkhorn" else {}
    gold = torch.tensor([0, 4, 2])
    assert torch.autograd.gradcheck(lambda z: CASES[name](z, targets, gold, temperature=1.5, **options), (student,))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.is_zero_for_the_teacher])
@pytest.mark.parametrize("tail", ["prior", "latent", "latent alone"])
def test_a_student_that_is_the_teacher_is_at_the_minimum(name: str, tail: str) -> None:
    targets = targets_with(tail)
    student = dense_logprobs(targets).double().requires_grad_()
    found = CASES[name](student, targets)
    assert found.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.abs().max() < 1e-4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_logits_are_reduced_in_float32(name: str, dtype: torch.dtype) -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY, dtype=dtype).requires_grad_()
    found = CASES[name](student, targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), CASES[name](student.double(), targets), rtol=1e-3, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", CASES)
def test_columns_that_the_student_rules_out_change_nothing(name: str) -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY)
    wide = torch.nn.functional.pad(student, (0, 3), value=-math.inf).requires_grad_()
    found = CASES[name](wide, targets)
    torch.testing.assert_close(found, CASES[name](student, targets))
    (gradient,) = torch.autograd.grad(found.sum(), wide)
    assert gradient.isfinite().all()
    assert (gradient[:, VOCABULARY:] == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_random_samples_give_no_distribution(name: str) -> None:
    with pytest.raises(BadInput, match="random samples") as refused:
        CASES[name](torch.randn(2, 9), targets_of("samples", 2, 3, 9), torch.tensor([0, 1]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.is_of_the_rows_together])
def test_the_loss_of_a_row_is_its_own(name: str) -> None:
    targets, student, some = targets_with("latent"), a_student(ROWS, VOCABULARY), slice(2, 5)
    found = CASES[name](student[some], targets[some], GOLD[some])
    torch.testing.assert_close(found, CASES[name](student, targets)[some], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_one_row_alone_is_finite_and_so_is_its_gradient(name: str) -> None:
    student = a_student(1, VOCABULARY).requires_grad_()
    found = CASES[name](student, targets_with("prior", rows=1), GOLD[:1])
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
