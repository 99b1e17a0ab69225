"""Balanced KL."""

from __future__ import annotations

import torch

from logitstore.train.objectives import forward_kl, reverse_kl
from logitstore.train.objectives.logits.adaptive_kl import balanced_kl
from tests.parts.row_references import whole


def test_balanced_kl_weighs_the_direction_that_a_row_needs() -> None:
    targets = whole(torch.tensor([[2.0, 1.0, 0.0]] * 2))
    student = torch.tensor([[0.0, 8.0, 0.0], [0.0, 0.1, 0.0]])  # sure, and unsure
    forward, reverse = forward_kl(student, targets), reverse_kl(student, targets)
    found = balanced_kl(student, targets, heavy=5.0, light=0.5)
    torch.testing.assert_close(found[0], 5 * forward[0] + 0.5 * reverse[0])
    torch.testing.assert_close(found[1], 0.5 * forward[1] + 5 * reverse[1])
    torch.testing.assert_close(balanced_kl(student, targets, heavy=1.0), forward + reverse)
