"""Prototypes of a teacher's states, against loops in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.train.objectives.features import Prototypes
from tests.parts.feature_references import shapes_of, sides_of


def test_states_are_described_by_prototypes_and_compared_by_that() -> None:
    shapes = shapes_of(Prototypes)
    sides, module = sides_of(shapes), Prototypes(shapes, count=3, weight=0.7, tau=0.4)
    own = [each / each.norm() for each in module.prototypes[0].detach().double()]
    linear = module.projections.maps[0].weight.detach().double()
    expected = []
    for student, teacher in zip(sides.student["final"] @ linear.T, sides.teacher["final"], strict=True):
        both = []
        for state in (teacher, student):
            heights = torch.stack([(state @ each / state.norm() / 0.4).exp() for each in own])
            both.append(heights / heights.sum())
        rest = teacher / teacher.norm() - sum(share * each for share, each in zip(both[0], own, strict=True))
        expected.append((rest**2).sum() + 0.7 * (both[0] * (both[0] / both[1]).log()).sum())
    torch.testing.assert_close(module(sides).detach(), torch.stack(expected))


def test_prototypes_learn_from_the_teacher_and_the_student_from_them() -> None:
    shapes = shapes_of(Prototypes)
    module, sides = Prototypes(shapes, count=3).double(), sides_of(shapes, (1, 3))

    def loss(student_ND: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(replace(sides, student={"final": student_ND}))
        return found

    assert torch.autograd.gradcheck(loss, sides.student["final"].requires_grad_())
    gradients = []
    for factor in (1.0, 5.0):
        module.zero_grad()
        loss(factor * sides.student["final"].roll(int(factor), 0)).sum().backward()
        gradients.append(module.prototypes[0].grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1])  # whatever the student says
    with pytest.raises(BadInput, match="count 0: give a number above 0"):
        Prototypes(shapes, count=0)
