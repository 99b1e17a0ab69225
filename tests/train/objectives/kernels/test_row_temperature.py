"""A temperature of each row: the exact KL with its T squared, against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logitstore.core.schedule import RowRule, scheduled
from logitstore.errors import BadInput
from logitstore.targets.dense import dense
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import SampledTargets, Targets
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.target import gold_target, teacher_target
from logitstore.train.objectives.kernels.weighted_sum import Pull, WeightedSum
from logitstore.train.objectives.row_values import RowValues

N, K, V = 7, 3, 11


@pytest.fixture
def rows() -> tuple[Targets, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    teacher_NV = torch.log_softmax(2 * torch.randn(N, V), -1)
    listed_NK, ids_NK = teacher_NV.topk(K, -1)
    rest_N = (1 - listed_NK.exp().sum(-1)).log()
    targets = Targets(ids_NK, listed_NK, rest_N, FixedTail.uniform(V))
    return targets, torch.randn(N, V, dtype=torch.float64), torch.randint(V, (N,)), 0.5 + 4 * torch.rand(N)


def reference(targets: Targets, logits_NV: Tensor, temperature_N: Tensor) -> Tensor:
    """T**2 KL(p_T || s_T) of each row, written out."""
    teacher_NV = torch.softmax(dense(targets).double().log() / temperature_N[:, None], -1)
    student_NV = torch.log_softmax(logits_NV / temperature_N[:, None], -1)
    return temperature_N**2 * (teacher_NV * (teacher_NV.log() - student_NV)).sum(-1)


def test_loss_and_gradient_are_those_of_the_formula(rows: tuple[Targets, Tensor, Tensor, Tensor]) -> None:
    targets, logits_NV, gold_N, temperature_N = rows
    weights_N = torch.rand(N, dtype=torch.float64)
    loss = WeightedSum(
        [
            Pull("kl", 0.7, temperature_N, teacher_target(targets, temperature_N, torch.float64)),
            Pull("two", 0.2, 2.0, teacher_target(targets, 2.0, torch.float64)),
            Pull("cross_entropy", 0.3, 1.0, gold_target(gold_N, torch.float64)),
        ]
    )
    leaf, plain = logits_NV.clone().requires_grad_(), logits_NV.clone().requires_grad_()
    total, lines = from_logits(loss, leaf, torch.arange(N), weights_N, chunk=3)
    kl_N = reference(targets, plain, temperature_N.double())
    two_N = reference(targets, plain, torch.full((N,), 2.0, dtype=torch.float64))
    gold_loss_N = torch.nn.functional.cross_entropy(plain, gold_N, reduction="none")
    expected = (weights_N * (0.7 * kl_N + 0.2 * two_N + 0.3 * gold_loss_N)).sum()
    assert torch.allclose(total, expected, rtol=1e-6)
    assert torch.allclose(lines[1], kl_N, rtol=1e-5)
    total.backward()
    expected.backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert plain.grad is not None
    assert torch.allclose(leaf.grad, plain.grad, atol=1e-6)


def test_a_constant_column_is_one_temperature(rows: tuple[Targets, Tensor, Tensor, Tensor]) -> None:
    targets, logits_NV, gold_N, _ = rows
    rule = RowRule.of("column:private(3, 3)")
    assert rule is not None
    answer = {"entropy": torch.rand(N), "gold_logprob": -torch.rand(N)}
    by_row = RowValues([rule], V, {"private": torch.rand(4)})(
        answer, torch.tensor([2, 0, 3]), torch.tensor([3, 3, 1]), N
    )
    losses = []
    for temperature, given in (("column:private(3, 3)", by_row), (3.0, None)):
        criterion = Criterion.mixed(alpha=0.6, temperature=temperature)
        logits = logits_NV.float().requires_grad_()
        total, _ = from_logits(criterion.row_loss(targets, gold_N, 0.0, by_row=given), logits, torch.arange(N))
        losses.append((total, *torch.autograd.grad(total, logits)))
    for one, other in zip(*losses, strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_rules_read_the_row_and_the_sample() -> None:
    rules = [scheduled(text) for text in ("entropy(1, 4)", "nll(4,1)", "column:private(1, 9)")]
    assert all(isinstance(rule, RowRule) for rule in rules)
    values = RowValues([*rules], V, {"private": torch.tensor([0.0, 0.5, float("nan")])})
    answer = {
        "entropy": torch.tensor([0.0, 1.0, 0.5, 0.0]) * torch.tensor(float(V)).log(),
        "gold_logprob": torch.tensor([0.0, -torch.inf, 0.25, torch.nan]).where(
            torch.arange(4) != 2, torch.tensor(-1.0)
        ),
    }
    found = values(answer, torch.tensor([1, 2, 0]), torch.tensor([2, 1, 1]), 4)
    by = {rule.by: value for rule, value in found.items()}
    assert torch.allclose(by["entropy"], torch.tensor([1.0, 4.0, 2.5, 1.0]))
    surprise = 1 - torch.tensor([1.0, 0.0, 0.36787945, 1.0])
    assert torch.allclose(by["nll"], 4 - 3 * surprise, atol=1e-6)
    assert torch.allclose(by["column"], torch.tensor([5.0, 5.0, 1.0, 1.0]))


def test_drawn_samples_have_no_temperature_of_a_row() -> None:
    drawn = SampledTargets(torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), torch.zeros(1))
    with pytest.raises(BadInput, match="temperature 1 only"):
        teacher_target(drawn, torch.ones(1))
