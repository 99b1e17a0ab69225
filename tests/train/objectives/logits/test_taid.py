"""TAID, and the rule of its time."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.train.objectives import forward_kl
from logitstore.train.objectives.logits.taid import AdaptiveTime, taid
from tests.parts.row_references import DISTRIBUTIONS, ROWS, VOCABULARY, a_student, at, targets_with
from tests.parts.targets import teacher_logits


@pytest.mark.parametrize("tail", DISTRIBUTIONS)
def test_taid_goes_from_the_student_to_the_teacher(tail: str) -> None:
    targets, student = targets_with(tail), a_student(ROWS, VOCABULARY).requires_grad_()
    start = taid(student, targets, t=0.0)
    s = torch.softmax(student, -1)
    torch.testing.assert_close(start, torch.special.entr(s).sum(-1))
    (gradient,) = torch.autograd.grad(start.sum(), student)
    assert gradient.abs().max() < 1e-6
    end = taid(student, targets, temperature=2.0)
    p = at(teacher_logits(targets, 2.0), 2.0)
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
