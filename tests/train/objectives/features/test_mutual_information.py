"""The bound of mutual information against its formula and its limits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.train.objectives.features import MutualInformation, Shapes, Sides, interpolated_bound
from tests.parts.feature_references import built, sides_of


def bound_reference(scores: Tensor, alpha: float) -> float:
    """Poole et al. 2019, section 2.4, with q = e: the next pair's x is left out with y's own x in, or y's own x is."""
    count = len(scores)
    joint = product = 0.0
    for row in range(count):
        drawn = [place for place in range(count) if place != (row + 1) % count]
        baseline = alpha * sum(math.exp(scores[row, place]) for place in drawn) / len(drawn) + (1 - alpha) * math.e
        joint += (float(scores[row, row]) - math.log(baseline)) / count
        others = [place for place in range(count) if place != row]
        baseline = alpha * sum(math.exp(scores[row, place]) for place in others) / len(others) + (1 - alpha) * math.e
        product += sum(math.exp(scores[row, place]) / baseline for place in others) / len(others) / count
    return 1 + joint - product


@given(count=st.integers(2, 9), alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_the_bound_is_the_formula_at_every_alpha(count: int, alpha: float, seed: int) -> None:
    scores = 3 * torch.randn(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    assert float(interpolated_bound(scores, alpha=alpha)) == pytest.approx(bound_reference(scores, alpha), rel=1e-9)


def test_at_alpha_one_the_bound_is_infonce_and_never_above_its_ceiling() -> None:
    scores = torch.randn(20, 20, dtype=torch.float64)
    left_out = torch.eye(20, dtype=torch.bool).roll(1, 1)
    log_shares = scores.masked_fill(left_out, -torch.inf).log_softmax(-1).diagonal()
    torch.testing.assert_close(interpolated_bound(scores, alpha=1.0), math.log(19) + log_shares.mean())
    sure = 1e4 * torch.eye(20, dtype=torch.float64)
    torch.testing.assert_close(float(interpolated_bound(sure, alpha=1.0)), math.log(19))


def test_at_alpha_zero_the_bound_is_that_of_nguyen_wainwright_and_jordan() -> None:
    scores = torch.randn(20, 20, dtype=torch.float64)
    others = scores[~torch.eye(20, dtype=torch.bool)]
    expected = scores.diagonal().mean() - (others - 1).exp().mean()
    torch.testing.assert_close(interpolated_bound(scores, alpha=0.0), expected)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0])
def test_the_critic_that_knows_gives_a_bound_below_the_information_on_the_average(alpha: float) -> None:
    draw = torch.Generator().manual_seed(1)
    strength = 0.8
    truth = -0.5 * math.log(1 - strength**2)
    x, noise = (torch.randn(4000, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    y = strength * x + math.sqrt(1 - strength**2) * noise
    # log p(y | x) / p(y), the best of critics; 1 more makes it best without a baseline too
    apart = (y[:, :, None] - strength * x[:, None, :]) ** 2 / (1 - strength**2)
    scores = -0.5 * apart + 0.5 * y[:, :, None] ** 2 - 0.5 * math.log(1 - strength**2) + 1
    bounds = torch.stack([interpolated_bound(each, alpha=alpha) for each in scores])
    error = float(bounds.std()) / math.sqrt(len(bounds))
    assert float(bounds.mean()) < truth + 3 * error
    assert float(bounds.mean()) > (0.55 * truth if alpha else truth - 3 * error)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_training_the_critic_raises_the_bound_towards_the_information(alpha: float) -> None:
    torch.manual_seed(5)
    width, strength = 8, 0.6
    truth = -0.5 * width * math.log(1 - strength**2)
    shapes = Shapes(
        student_layers=1, teacher_layers=1, widths_student={"final": width}, widths_teacher={"final": width}
    )
    module = MutualInformation(shapes, alpha=alpha, critic_width=32)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)

    def draw(rows: int) -> Sides:
        x, noise = torch.randn(rows, width), torch.randn(rows, width)
        return Sides(
            student={"final": x},
            teacher={"final": strength * x + math.sqrt(1 - strength**2) * noise},
            counts_M=torch.tensor([rows]),
            gold_N=torch.zeros(rows, dtype=torch.int64),
            mask_N=torch.ones(rows, dtype=torch.bool),
        )

    with torch.no_grad():
        before = -float(module(draw(500)).mean())
    for _ in range(200):
        loss = module(draw(64)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        after = -float(torch.stack([module(draw(64)).mean() for _ in range(50)]).mean())
    assert before < 0.1
    assert 0.6 * truth < after < truth, (after, truth)


def test_mutual_information_is_one_number_for_all_rows_that_count() -> None:
    module, shapes = built("mutual information")
    assert isinstance(module, MutualInformation)
    sides = sides_of(shapes)
    sides.mask_N[4] = False
    kept = sides.counted()
    expected = 0.0
    for critic, (own, other) in zip(module.critics, module.names, strict=True):
        expected -= bound_reference(critic(kept.student[own], kept.teacher[other]).detach(), 0.9) / len(module.names)
    found = module(sides)
    assert float(found[4].detach()) == 0
    torch.testing.assert_close(found[sides.mask_N], torch.full((8,), expected, dtype=torch.float64))
