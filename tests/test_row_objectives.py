"""Objectives on logits against float64 references written from their formulas, at their limits, and their identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.objectives import FixedTail, Targets, cross_entropy, forward_kl, jensen_shannon, reverse_kl
from logitstore.objectives.balanced_kl import balanced_kl
from logitstore.objectives.dense_pair import dense_pair
from logitstore.objectives.dist import dist
from logitstore.objectives.dkd import dkd, non_target_kl, target_kl
from logitstore.objectives.one_for_all import one_for_all
from logitstore.objectives.plackett_luce import plackett_luce
from logitstore.objectives.sinkhorn import sinkhorn_distance
from logitstore.objectives.standardised_kl import standardised_kl
from logitstore.objectives.taid import AdaptiveTime, taid
from logitstore.objectives.total_variation import total_variation
from logitstore.targets import AnyTargets, dense_logprobs
from tests.made_targets import TAILS, targets_of

ROWS, VOCABULARY, LISTED = 6, 37, 5
GOLD = torch.tensor([0, 36, 3, 20, 11, 7])
DISTRIBUTIONS = [tail for tail in TAILS if tail != "samples"]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log(), 0.0).sum(-1)


def entropy(p: Tensor) -> Tensor:
    return -torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0.0).sum(-1)


def at(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(logits / temperature, -1)


def reference_dkd(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    found = []
    for teacher_V, student_V, y in zip(teacher, student, gold.tolist(), strict=True):
        p, s = at(teacher_V, temperature), at(student_V, temperature)
        others = [v for v in range(len(p)) if v != y]
        p_rest, s_rest = p[others].sum(), s[others].sum()
        target = kl(torch.stack([p[y], p_rest]), torch.stack([s[y], s_rest]))
        found.append(temperature**2 * (target + 8 * kl(p[others] / p_rest, s[others] / s_rest)))
    return torch.stack(found)


def teacher_beside(targets: Targets, student: Tensor) -> Tensor:
    teacher = dense_logprobs(targets).double()
    return torch.nn.functional.pad(teacher, (0, student.shape[1] - teacher.shape[1]), value=-math.inf)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def reference_dist(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    p, s = at(teacher, temperature)[:, :VOCABULARY], at(student, temperature)[:, :VOCABULARY]
    tokens = [v for v in range(VOCABULARY) if p[:, v].max() > p[:, v].min()]
    within = torch.stack([1 - pearson(p_V, s_V) for p_V, s_V in zip(p, s, strict=True)])
    across = torch.stack([1 - pearson(p[:, v], s[:, v]) for v in tokens]).mean()
    return temperature**2 * (within + across)


def reference_sinkhorn(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    p, s = at(teacher, temperature), at(student, temperature)
    cost = (s[:, None] - p[None]).abs().sum(-1)
    plan = (-cost / 0.1).exp()
    for _ in range(20):
        plan = plan / plan.sum(1, keepdim=True)
        plan = plan / plan.sum(0, keepdim=True)
    return (plan * cost).sum(1)


def reference_taid(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    z = student / temperature
    target = torch.softmax(0.6 * z.detach() + 0.4 * teacher / temperature, -1)
    return temperature**2 * -torch.where(target > 0, target * torch.log_softmax(z, -1), 0.0).sum(-1)


def reference_balanced(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    teacher = teacher_beside(targets, student)
    found = []
    for teacher_V, student_V in zip(teacher, student, strict=True):
        forward, reverse = (2, 1) if entropy(at(student_V, 1.0)) < entropy(at(teacher_V, 1.0)) else (1, 2)
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
        p = torch.softmax((teacher_V - known.mean()) / known.std(correction=0) / temperature, -1)
        s = torch.softmax((student_V - own.mean()) / own.std(correction=0) / temperature, -1)
        found.append(temperature**2 * kl(p, s))
    return torch.stack(found)


def reference_plackett_luce(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    found = []
    for n, (teacher_V, student_V) in enumerate(zip(teacher_beside(targets, student), student, strict=True)):
        alpha, y, by_probability = at(teacher_V, temperature), int(gold[n]), teacher_V.argsort(descending=True).tolist()
        listed = set(targets.ids_NK[n][targets.logprobs_NK[n] > -math.inf].tolist()) or set(by_probability[:LISTED])
        loss, left = torch.zeros((), dtype=torch.float64), set(range(len(student_V)))
        for v in (y, *(v for v in by_probability if v in listed - {y})):
            loss = loss + alpha[v] * (student_V[sorted(left)].logsumexp(0) - student_V[v])
            left.remove(v)
        found.append(loss)
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
    teacher = teacher_beside(targets, student)
    found = []
    for teacher_V, student_V, y in zip(teacher, student, gold.tolist(), strict=True):
        p, s = at(teacher_V, temperature), at(student_V, temperature)
        terms = [-((p[v] + float(v == y)) ** 1.5 - float(v == y)) * s[v].log() for v in range(len(p)) if p[v] > 0]
        found.append(temperature**2 * torch.stack(terms).sum())
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


def targets_with(tail: str, rows: int = ROWS, k: int = LISTED, vocabulary: int = VOCABULARY) -> Targets:
    found = targets_of(tail, rows, k, vocabulary)
    assert isinstance(found, Targets)
    return found


def whole(logits: Tensor) -> Targets:
    """Targets that list everything, in the order of the ids."""
    rows, vocabulary = logits.shape
    return Targets(
        torch.arange(vocabulary).expand(rows, -1),
        torch.log_softmax(logits, -1),
        torch.full((rows,), -math.inf),
        FixedTail.uniform(vocabulary),
    )


def a_student(*size: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return 2 * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


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


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("tail", DISTRIBUTIONS)
def test_the_two_halves_of_decoupled_kd_make_up_the_kl(tail: str, temperature: float) -> None:
    targets = targets_with(tail)
    student, teacher = dense_pair(a_student(ROWS, VOCABULARY), targets, temperature)
    p_gold = teacher.gather(1, GOLD[:, None])[:, 0].exp()
    joined = target_kl(student, teacher, GOLD) + (1 - p_gold) * non_target_kl(student, teacher, GOLD)
    torch.testing.assert_close(joined, kl(teacher.exp(), student.exp()), rtol=1e-4, atol=1e-6)


def test_decoupled_kd_is_finite_where_gold_is_certain_or_impossible() -> None:
    logits = torch.tensor([[0.0, -math.inf, -math.inf], [-math.inf, 0.0, 1.0], [200.0, 0.0, 0.0], [0.0, 1.0, 2.0]])
    student = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [500.0, 1.0, 0.0]], requires_grad=True)
    gold = torch.zeros(4, dtype=torch.int64)
    found = dkd(student, whole(logits), gold)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all()
    assert gradient.isfinite().all()
    certain, impossible = found[0], found[1]
    # nothing but the gold token is left to learn; and nothing of it
    torch.testing.assert_close(certain, cross_entropy(student, gold)[0])
    s = torch.softmax(student[1], -1)
    others = kl(torch.softmax(torch.tensor([0.0, 1.0]), -1), s[1:] / s[1:].sum())
    torch.testing.assert_close(impossible, -(1 - s[0]).log() + 8 * others)


def test_weights_of_decoupled_kd_and_of_dist_switch_their_terms() -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY)
    target = dkd(student, targets, GOLD, non_target_weight=0.0)
    non_target = dkd(student, targets, GOLD, target_weight=0.0, non_target_weight=1.0)
    torch.testing.assert_close(dkd(student, targets, GOLD, target_weight=3.0), 3 * target + 8 * non_target)
    within, across = dist(student, targets, intra_weight=0.0), dist(student, targets, inter_weight=0.0)
    assert (across == across[0]).all()
    assert len(set(within.tolist())) == ROWS
    torch.testing.assert_close(dist(student, targets, inter_weight=2.0, intra_weight=3.0), 2 * within + 3 * across)


def test_dist_leaves_out_what_the_teacher_keeps_constant() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    logits[0] = 0.0
    logits[:, 4] = -math.inf
    logits[0, 4] = -math.inf
    student = a_student(4, 5).requires_grad_()
    found = dist(student, whole(logits), intra_weight=0.0)
    across = dist(student, whole(logits), inter_weight=0.0)
    (gradient,) = torch.autograd.grad((found + across).sum(), student)
    assert gradient.isfinite().all()
    p, s = torch.softmax(logits.double(), -1), torch.softmax(student, -1)
    expected = torch.stack([1 - pearson(p[:, v], s[:, v]) for v in range(4)]).mean()
    torch.testing.assert_close(across, expected.expand(4), rtol=1e-5, atol=1e-6)
    same = whole(torch.zeros(3, 5))
    assert (dist(a_student(3, 5), same) == 0).all()
    equal = torch.zeros(3, 5, requires_grad=True)
    found = dist(equal, whole(logits[1:]))
    (gradient,) = torch.autograd.grad(found.sum(), equal)
    torch.testing.assert_close(found, torch.full((3,), 2.0))
    assert gradient.isfinite().all()


def test_dist_sees_probabilities_too_small_to_be_squared() -> None:
    logits = torch.tensor([[0.0, -60.0], [0.0, -61.0], [0.0, -62.0]])
    found = dist(logits, whole(logits), inter_weight=0.0)
    assert found.abs().max() < 1e-5
    assert dist(logits.flip(0), whole(logits), inter_weight=0.0).min() > 0.5


def test_a_row_alone_costs_twice_its_total_variation_to_move() -> None:
    targets, student = targets_with("latent", rows=1), a_student(1, VOCABULARY)
    torch.testing.assert_close(
        sinkhorn_distance(student, targets), 2 * total_variation(student, targets, temperature=2.0)
    )


def test_rows_far_apart_are_moved_onto_their_own_targets() -> None:
    teacher = 60 * torch.eye(4)
    assert sinkhorn_distance(teacher, whole(teacher)).max() < 1e-5
    # in another order the cheapest plan is the other order, and costs nothing either
    assert sinkhorn_distance(teacher.flip(0), whole(teacher)).max() < 1e-5
    for epsilon in (1e-3, 10.0):
        assert sinkhorn_distance(a_student(4, 4), whole(teacher), epsilon=epsilon).isfinite().all()


@pytest.mark.parametrize("options", [{"epsilon": 0.0}, {"epsilon": math.nan}, {"iterations": 0}])
def test_sinkhorn_refuses_what_makes_no_plan(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="both must be positive"):
        sinkhorn_distance(a_student(2, 3), whole(torch.randn(2, 3)), **options)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_plackett_luce_of_a_whole_vocabulary_is_the_whole_list(temperature: float) -> None:
    logits, student = a_student(ROWS, 9, dtype=torch.float32, seed=3), a_student(ROWS, 11).requires_grad_()
    targets, gold = whole(logits), torch.tensor([0, 8, 3, 5, 1, 7])
    expected = reference_plackett_luce(targets, student, gold, temperature)
    found = plackett_luce(student, targets, gold, temperature=temperature)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    (gradient,) = torch.autograd.grad(found.sum(), student)
    (reference,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-7)


def test_the_first_term_of_plackett_luce_is_a_weighted_cross_entropy() -> None:
    targets, student = targets_with("latent alone"), a_student(ROWS, VOCABULARY)
    weights = dense_logprobs(targets, 2.0).double().gather(1, GOLD[:, None])[:, 0].exp()
    found = plackett_luce(student, targets, GOLD, temperature=2.0, listed=0)
    torch.testing.assert_close(found, weights * cross_entropy(student, GOLD))
    torch.testing.assert_close(
        plackett_luce(student, targets, GOLD, listed=64), plackett_luce(student, targets, GOLD, listed=VOCABULARY)
    )


def test_what_plackett_luce_drops_weighs_no_more_than_the_tail() -> None:
    logits, student = 3 * a_student(ROWS, 9, dtype=torch.float32, seed=3), a_student(ROWS, 9)
    logprobs, ids = torch.log_softmax(logits, -1).topk(4)
    tail = torch.log1p(-logprobs.exp().sum(-1))
    gold = ids[:, 1]
    dropped = plackett_luce(student, whole(logits), gold) - plackett_luce(
        student, Targets(ids, logprobs, tail, FixedTail.uniform(9)), gold
    )
    most = (student.amax(-1) - student.amin(-1)) + math.log(9)
    assert (dropped >= -1e-6).all()
    assert (dropped <= tail.exp() * most + 1e-6).all()


@pytest.mark.parametrize("tail", DISTRIBUTIONS)
def test_taid_goes_from_the_student_to_the_teacher(tail: str) -> None:
    targets, student = targets_with(tail), a_student(ROWS, VOCABULARY).requires_grad_()
    start = taid(student, targets, t=0.0)
    s = torch.softmax(student, -1)
    torch.testing.assert_close(start, torch.special.entr(s).sum(-1))
    (gradient,) = torch.autograd.grad(start.sum(), student)
    assert gradient.abs().max() < 1e-6
    end = taid(student, targets, temperature=2.0)
    p = at(dense_logprobs(targets).double(), 2.0)
    torch.testing.assert_close(
        end, forward_kl(student, targets, temperature=2.0) + 4 * torch.special.entr(p).sum(-1), rtol=1e-4, atol=1e-5
    )


def test_taid_takes_a_tensor_as_it_takes_a_number() -> None:
    targets, student = targets_with("none"), a_student(ROWS, VOCABULARY)
    student[:, -1] = -math.inf
    for t in (0.0, 0.25, 1.0):
        found = taid(student, targets, t=torch.tensor(t))
        assert not found.isnan().any()
        torch.testing.assert_close(found, taid(student, targets, t=t))
    with pytest.raises(BadInput, match="from 0, the student itself, to 1"):
        taid(student, targets, t=1.5)


def reference_times(losses: list[float], start: float, end: float, step: float, beta: float) -> list[float]:
    t, momentum, before, found = start, 0.0, None, []
    for i, loss in enumerate(losses):
        ahead = 0.0
        if before is not None:
            momentum = beta * momentum + (1 - beta) * (before - loss) / before
            ahead = step / (1 + math.exp(-momentum)) * (1 - t)
        t = min(end, max(start + (end - start) * i / len(losses), t + ahead))
        before = loss
        found.append(t)
    return found


@pytest.mark.parametrize("end", [1.0, 0.7])
@pytest.mark.parametrize("step", [5e-4, 0.3])
def test_adaptive_time_follows_its_rule(end: float, step: float) -> None:
    losses = (3 + torch.randn(40, generator=torch.Generator().manual_seed(0)).double()).abs().tolist()
    time, found = AdaptiveTime(end=end, step=step, beta=0.5), []
    for i, loss in enumerate(losses):
        time.update(torch.tensor(loss, requires_grad=True), i / len(losses))
        found.append(float(time.options()["t"]))
    assert found == pytest.approx(reference_times(losses, 0.4, end, step, 0.5), rel=1e-5)
    assert found == sorted(found)
    assert found[-1] <= end + 1e-6


def test_adaptive_time_goes_on_from_its_state() -> None:
    ahead, resumed = AdaptiveTime(step=0.1), AdaptiveTime(step=0.1)
    assert ahead.options()["t"] == torch.tensor(0.4)
    for loss in (4.0, 3.0):
        ahead.update(torch.tensor(loss), 0.0)
    resumed.load_state_dict(ahead.state_dict())
    for time in (ahead, resumed):
        time.update(torch.tensor(2.5), 0.1)
    assert ahead.state_dict() == resumed.state_dict()
    assert set(ahead.state_dict()) == {"t", "momentum", "previous_loss"}


def test_adaptive_time_starts_with_the_line_and_survives_a_loss_that_is_not_finite() -> None:
    time = AdaptiveTime(step=0.1)
    time.update(torch.tensor(2.0), 0.25)
    assert float(time.t) == pytest.approx(0.55)
    assert float(time.momentum) == 0
    for loss in (math.nan, math.inf, 2.0):
        time.update(torch.tensor(loss), 0.25)
        assert float(time.t) == pytest.approx(0.55)
        assert float(time.momentum) == 0
    time.update(torch.tensor(1.0), 0.25)
    assert float(time.momentum) == pytest.approx(0.01 * 0.5)
    assert float(time.t) > 0.55


def test_adaptive_time_reads_no_value_from_its_device() -> None:
    time = AdaptiveTime().to("meta")  # where there are none
    time.update(torch.tensor(1.0, device="meta"), 0.5)
    assert time.options()["t"].device.type == "meta"


def test_adaptive_time_refuses_to_go_backwards() -> None:
    with pytest.raises(BadInput, match="from start up to end"):
        AdaptiveTime(start=0.8, end=0.5)


def test_balanced_kl_weighs_the_direction_that_a_row_needs() -> None:
    targets = whole(torch.tensor([[2.0, 1.0, 0.0]] * 2))
    student = torch.tensor([[0.0, 8.0, 0.0], [0.0, 0.1, 0.0]])  # sure, and unsure
    forward, reverse = forward_kl(student, targets), reverse_kl(student, targets)
    found = balanced_kl(student, targets, heavy=5.0, light=0.5)
    torch.testing.assert_close(found[0], 5 * forward[0] + 0.5 * reverse[0])
    torch.testing.assert_close(found[1], 0.5 * forward[1] + 5 * reverse[1])
    torch.testing.assert_close(balanced_kl(student, targets, heavy=1.0), forward + reverse)


def test_standardised_kl_does_not_see_scale_and_shift() -> None:
    targets, student = targets_with("latent"), a_student(ROWS, VOCABULARY)
    found = standardised_kl(student, targets)
    torch.testing.assert_close(standardised_kl(0.1 * student - 7, targets), found, rtol=1e-5, atol=1e-7)
    teacher = dense_logprobs(targets).double()
    assert standardised_kl(3 * teacher + 5, targets).abs().max() < 1e-5


def test_standardised_kl_stands_equal_logits() -> None:
    student = torch.zeros(ROWS, VOCABULARY, requires_grad=True)
    found = standardised_kl(student, targets_with("prior"))
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all()
    assert gradient.isfinite().all()


def test_standardised_kl_needs_a_tail_or_every_token() -> None:
    with pytest.raises(BadInput, match="logits of 5 of 37 tokens") as refused:
        standardised_kl(a_student(ROWS, VOCABULARY), targets_with("none"))
    assert "\n" not in str(refused.value)
    student = a_student(ROWS, VOCABULARY)
    assert standardised_kl(student, targets_with("none", k=VOCABULARY)).isfinite().all()


def test_jensen_shannon_goes_from_forward_to_reverse_kl() -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY)
    p, s = dense_logprobs(targets).double().exp(), torch.softmax(student, -1)
    m = 0.3 * p + 0.7 * s
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=0.3), 0.3 * kl(p, m) + 0.7 * kl(s, m), rtol=1e-4, atol=1e-6
    )
    targets, near = whole(a_student(ROWS, VOCABULARY, dtype=torch.float32, seed=2)), 1e-6
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=near) / near, forward_kl(student, targets), rtol=1e-2, atol=1e-3
    )
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=1 - near) / near, reverse_kl(student, targets), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_jensen_shannon_has_no_ends(beta: float) -> None:
    with pytest.raises(BadInput, match="above 0 and below 1"):
        jensen_shannon(a_student(ROWS, VOCABULARY), targets_with("prior"), beta=beta)


def test_one_for_all_with_gamma_1_is_the_cross_entropy_to_the_teacher() -> None:
    targets, student = whole(a_student(ROWS, VOCABULARY, seed=5)), a_student(ROWS, VOCABULARY, seed=6)
    found = one_for_all(student, targets, GOLD, gamma=1.0)
    teacher = dense_logprobs(targets).double().exp()
    torch.testing.assert_close(found, -(teacher * torch.log_softmax(student, -1)).sum(-1), rtol=1e-6, atol=1e-6)
