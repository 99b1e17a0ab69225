"""The Sinkhorn distance in batches where it is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.train.objectives.logits.divergences import total_variation
from logitstore.train.objectives.logits.sinkhorn import sinkhorn_distance
from tests.parts.row_references import VOCABULARY, a_student, targets_with, whole


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
