"""DIST where the teacher is constant or its probabilities are tiny."""

from __future__ import annotations

import math

import torch

from logitstore.train.objectives.logits.dist import dist
from tests.parts.row_references import a_student, pearson, whole


def test_dist_leaves_out_what_the_teacher_keeps_constant() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    logits[0] = 0.0
    logits[:, 4] = -math.inf
    logits[0, 4] = -math.inf
    student = a_student(4, 5).requires_grad_()
    found = dist(student, whole(logits), intra_weight=0.0)
    across = dist(student, whole(logits), inter_weight=0.0)
    (gradient,) = torch.autograd.grad((found + across).sum(), student)
    assert gradient.isfinite().all()
    p, s = torch.softmax(logits.double(), -1), torch.softmax(student, -1)
    expected = torch.stack([1 - pearson(p[:, v], s[:, v]) for v in range(4)]).mean()
    torch.testing.assert_close(across, expected.expand(4), rtol=1e-5, atol=1e-6)
    same = whole(torch.zeros(3, 5))
    assert (dist(a_student(3, 5), same) == 0).all()
    equal = torch.zeros(3, 5, requires_grad=True)
    found = dist(equal, whole(logits[1:]))
    (gradient,) = torch.autograd.grad(found.sum(), equal)
    torch.testing.assert_close(found, torch.full((3,), 2.0))
    assert gradient.isfinite().all()


def test_dist_sees_probabilities_too_small_to_be_squared() -> None:
    logits = torch.tensor([[0.0, -60.0], [0.0, -61.0], [0.0, -62.0]])
    found = dist(logits, whole(logits), inter_weight=0.0)
    assert found.abs().max() < 1e-5
    assert dist(logits.flip(0), whole(logits), inter_weight=0.0).min() > 0.5
