"""Cross-entropy against its definition."""

from __future__ import annotations

import torch

from logitstore.train.objectives import cross_entropy


def test_cross_entropy_is_the_negative_log_of_the_gold_probability() -> None:
    student = torch.randn(5, 9, dtype=torch.float64)
    gold = torch.tensor([0, 8, 3, 3, 1])
    expected = -torch.softmax(student, -1)[torch.arange(5), gold].log()
    torch.testing.assert_close(cross_entropy(student, gold), expected)
