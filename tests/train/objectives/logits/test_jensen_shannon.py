"""The Jensen-Shannon divergence between its ends."""

from __future__ import annotations

import math

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.train.objectives import forward_kl, jensen_shannon, reverse_kl
from tests.parts.row_references import ROWS, VOCABULARY, a_student, kl, targets_with, whole


def test_jensen_shannon_goes_from_forward_to_reverse_kl() -> None:
    targets, student = targets_with("prior"), a_student(ROWS, VOCABULARY)
    p, s = dense_logprobs(targets).double().exp(), torch.softmax(student, -1)
    m = 0.3 * p + 0.7 * s
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=0.3), 0.3 * kl(p, m) + 0.7 * kl(s, m), rtol=1e-4, atol=1e-6
    )
    targets, near = whole(a_student(ROWS, VOCABULARY, dtype=torch.float32, seed=2)), 1e-6
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=near) / near, forward_kl(student, targets), rtol=1e-2, atol=1e-3
    )
    torch.testing.assert_close(
        jensen_shannon(student, targets, beta=1 - near) / near, reverse_kl(student, targets), rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.5, 2.0, math.nan])
def test_jensen_shannon_has_no_ends(beta: float) -> None:
    with pytest.raises(BadInput, match="above 0 and below 1"):
        jensen_shannon(a_student(ROWS, VOCABULARY), targets_with("prior"), beta=beta)
