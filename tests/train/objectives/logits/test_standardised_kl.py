"""The KL of standardised logits."""

from __future__ import annotations

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.train.objectives.logits.standardised_kl import standardised_kl
from tests.parts.row_references import ROWS, VOCABULARY, a_student, targets_with


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
