"""Losses taken a few rows at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from logitstore.train.objectives import cross_entropy, forward_kl, rowwise
from tests.parts.dense_kl import make_targets


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_rowwise_gives_the_same_loss_and_gradient_whatever_the_chunk(chunk: int) -> None:
    targets, _ = make_targets(rows=9, k=4, vocabulary=33, tail="prior")
    student = torch.randn(20, 33, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor([0, 1, 2, 5, 6, 11, 12, 18, 19])
    weights = torch.rand(9, dtype=torch.float64)
    found = rowwise(lambda z, some: forward_kl(z, targets[some]), student, rows, chunk)
    expected = forward_kl(student[rows], targets)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad((found * weights).sum(), student)
    (reference,) = torch.autograd.grad((expected * weights).sum(), student)
    torch.testing.assert_close(gradient, reference)
    gold = torch.randint(0, 33, (9,))
    assert torch.autograd.gradcheck(
        lambda z: rowwise(lambda x, some: cross_entropy(x, gold[some]), z, rows, chunk) * weights, student
    )


def test_rowwise_never_holds_a_float32_copy_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def loss(logits: Tensor, some: slice) -> Tensor:
        seen.append(len(logits))
        return cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64))

    student = torch.randn(50, 11, dtype=torch.bfloat16, requires_grad=True)
    total = rowwise(loss, student, torch.arange(50), 8).sum()
    total.backward()
    assert max(seen) == 8
    assert sum(seen) == 50
    assert student.grad is not None
    assert student.grad.dtype == torch.bfloat16
