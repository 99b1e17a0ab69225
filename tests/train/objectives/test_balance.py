"""The weight that makes two losses equal."""

from __future__ import annotations

import pytest
import torch

from logitstore.train.objectives.criterion import balanced_weight


@pytest.mark.parametrize(("main", "other"), [(2.0, 8.0), (2.0, 0.0), (0.0, 0.0), (10.0, 1e-38), (0.0, 3.0)])
def test_the_balanced_weight_makes_both_losses_equal_and_is_zero_where_nothing_can(main: float, other: float) -> None:
    weight = balanced_weight(torch.tensor(main, requires_grad=True), torch.tensor(other, requires_grad=True))
    assert not weight.requires_grad
    assert float(weight) == (main / other if other > 1e-30 else 0.0)


@pytest.mark.parametrize(("main", "other"), [(2.0, -8.0), (-2.0, 8.0)])
def test_a_balanced_weight_never_pushes_away(main: float, other: float) -> None:
    assert float(balanced_weight(torch.tensor(main), torch.tensor(other))) == 0
