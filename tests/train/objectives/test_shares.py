"""Several teachers in one loss: values and gradients against float64, and what a share is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from logitstore.core.schedule import Schedule
from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.train.objectives.criterion import Criterion, RowTerm
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.shares import Shares

ROWS, VOCABULARY, LISTED = 7, 23, 5


def teacher(seed: int, listed: int = LISTED) -> Targets:
    """A teacher that lists tokens with an even tail; with all tokens listed there is none."""
    generator = torch.Generator().manual_seed(seed)
    logprobs_NV = torch.log_softmax(2 * torch.randn(ROWS, VOCABULARY, generator=generator), -1)
    top = logprobs_NV.topk(listed)
    tail_N = (
        torch.log1p(-top.values.exp().sum(-1).clamp(max=1)) if listed < VOCABULARY else torch.full((ROWS,), -torch.inf)
    )
    return Targets(top.indices, top.values, tail_N, FixedTail.uniform(VOCABULARY))


def loss_and_gradient(criterion: Criterion, logits_NV: torch.Tensor, **further: Any) -> tuple[Any, ...]:
    leaf_NV = logits_NV.clone().requires_grad_()
    weights_N = torch.linspace(0.5, 1.5, ROWS) / ROWS
    gold_N = torch.arange(ROWS)
    targets = further.pop("targets")
    loss = criterion.row_loss(targets, gold_N, 0.25, **further)
    total, lines_LN = from_logits(loss, leaf_NV, torch.arange(ROWS), weights_N)
    total.backward()
    return total.detach(), leaf_NV.grad, lines_LN, loss.names


def reference(logits_NV: torch.Tensor, teachers: list[Targets], shares: list[Any], alpha: float, t: float) -> Any:
    """float64: alpha T^2 sum_c w_c KL(p_c || s) + (1 - alpha) CE, and its gradient."""
    leaf_NV = logits_NV.double().requires_grad_()
    weights_N = (torch.linspace(0.5, 1.5, ROWS) / ROWS).double()
    student_NV, plain_NV = torch.log_softmax(leaf_NV / t, -1), torch.log_softmax(leaf_NV, -1)
    loss_N = -(1 - alpha) * plain_NV[torch.arange(ROWS), torch.arange(ROWS)]
    for each, share in zip(teachers, shares, strict=True):
        p_NV = torch.softmax(dense_logprobs(each).double() / t, -1)
        kl_N = t**2 * (torch.special.xlogy(p_NV, p_NV) - p_NV * student_NV).sum(-1)
        loss_N = loss_N + alpha * (share.double() if isinstance(share, torch.Tensor) else share) * kl_N
    total = (weights_N * loss_N).sum()
    total.backward()
    return total.detach(), leaf_NV.grad


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("by_row", [False, True])
@pytest.mark.parametrize("through", ["kernel", "autograd"])
def test_value_and_gradient_are_those_of_the_weighted_sum(temperature: float, by_row: bool, through: str) -> None:
    logits_NV = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(3))
    teachers = [teacher(0), teacher(1), teacher(2, VOCABULARY)]
    shares: list[Any] = [0.5, 0.3, 0.2]
    if by_row:
        shares = list(torch.softmax(torch.randn(3, ROWS, generator=torch.Generator().manual_seed(4)), 0))
    # a further pull of no weight moves all of a criterion to autograd
    rows = [RowTerm(name="reverse_kl", label="reverse_kl", weight=Schedule.of("warmup(1e-9,1)"))]
    criterion = Criterion.mixed(alpha=0.7, temperature=temperature, rows=rows if through == "autograd" else [])
    total, gradient_NV, lines_LN, names = loss_and_gradient(
        criterion, logits_NV, targets=teachers[0], also=teachers[1:], shares=shares
    )
    expected, expected_NV = reference(logits_NV, teachers, shares, 0.7, temperature)
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient_NV.double(), expected_NV, rtol=1e-4, atol=1e-7)
    assert names[:4] == ["kl", "kl/2", "kl/3", "cross_entropy"]
    assert len(lines_LN) == 1 + len(names)


def test_weights_of_one_and_nothing_are_the_single_cache() -> None:
    logits_NV = torch.randn(ROWS, VOCABULARY)
    one, other = teacher(0), teacher(1)
    alone = loss_and_gradient(Criterion.mixed(alpha=0.5), logits_NV, targets=one)
    both = loss_and_gradient(Criterion.mixed(alpha=0.5), logits_NV, targets=one, also=[other], shares=[1.0, 0.0])
    torch.testing.assert_close(both[0], alone[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(both[1], alone[1], rtol=1e-5, atol=1e-8)
    twice = loss_and_gradient(Criterion.mixed(alpha=0.5), logits_NV, targets=one, also=[one], shares=[0.25, 0.75])
    torch.testing.assert_close(twice[1], alone[1], rtol=1e-5, atol=1e-8)


def test_shares_sum_to_one_and_follow_their_schedules() -> None:
    assert Shares.of(None, 4)([{}] * 4, 0.3) == [0.25] * 4
    assert Shares.of("2, 1,1", 3)([{}] * 3, 0.9) == [0.5, 0.25, 0.25]
    moving = Shares.of("linear(1,0),linear(0,1)", 2)
    assert [moving([{}] * 2, done) for done in (0.0, 0.25, 1.0)] == [[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]


def test_by_gold_and_by_entropy_they_are_the_softmax_of_what_is_stored() -> None:
    gold_CN = torch.tensor([[0.5, 0.1, 0.0, torch.nan], [0.25, 0.4, 0.0, torch.nan]]).log()
    entropy_CN = torch.tensor([[1.0, 2.0, 0.0, 3.0], [1.0, 0.5, 0.25, 1.0]])
    scores = [{"gold_logprob": gold_CN[c].half(), "entropy": entropy_CN[c].half()} for c in (0, 1)]
    by_gold = torch.stack(Shares.of("gold", 2)(scores, 0.0))  # type: ignore[arg-type]
    torch.testing.assert_close(by_gold[0], torch.tensor([2 / 3, 0.2, 0.5, 0.5]), rtol=1e-3, atol=0)
    by_entropy = torch.stack(Shares.of("entropy", 2)(scores, 0.0))  # type: ignore[arg-type]
    torch.testing.assert_close(by_entropy, torch.softmax(-entropy_CN, 0))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("1", "1 for 2 caches"),
        ("1,2,3", "3 for 2 caches"),
        ("1,-2", "write one for each of the 2 caches"),
        ("best", "or gold or entropy"),
        ("0,0", "nothing counts"),
        ("linear(1,0),linear(1,0)", "at some moment of the run nothing counts"),
    ],
)
def test_weights_that_are_none_are_refused(text: str, says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Shares.of(text, 2)
