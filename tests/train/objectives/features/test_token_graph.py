"""Graphs of tokens against loops over pairs, float64."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from logitstore.errors import BadInput
from logitstore.train.objectives.features import TokenGraph
from tests.parts.feature_references import samples_of, shapes_of, sides_of


def test_the_three_terms_are_those_of_loops_over_pairs() -> None:
    shapes = shapes_of(TokenGraph)
    sides = sides_of(shapes)
    student, teacher = sides.student["final"], sides.teacher["final"]
    rows = len(student)
    own, other = ([row / row.norm() for row in side] for side in (student, teacher))
    local = contrast = 0.0
    module = TokenGraph(shapes, neighbours=3, tau=0.3)
    mapped = student @ module.projections.maps[0].weight.detach().double().T
    for row in range(rows):
        near = sorted((each for each in range(rows) if each != row), key=lambda each: -float(other[row] @ other[each]))[
            :3
        ]
        said = []
        for side in (own, other):
            heights = torch.stack([torch.exp(-((side[row] - side[each]) ** 2).sum()) for each in near])
            said.append(heights.exp() / heights.exp().sum())
        local += float((said[1] * (said[1] / said[0]).log()).sum()) / rows
        scores = torch.stack([mapped[row] / mapped[row].norm() @ each / 0.3 for each in other])
        contrast -= float((scores[row].exp() / scores.exp().sum()).log()) / rows
    expected = torch.zeros(rows, dtype=torch.float64)
    for sample in samples_of(sides):
        for row in sample:
            said = []
            for side in (student, teacher):
                scores = torch.stack([side[row] @ side[each] / math.sqrt(side.shape[1]) for each in sample])
                said.append(scores.exp() / scores.exp().sum())
            expected[row] = ((said[0] - said[1]) ** 2).mean()
    for weights in ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0.5, 2, 3)):
        module.local, module.contrast, module.context = weights
        found = module(sides).detach()
        whole = weights[0] * local + weights[1] * contrast + weights[2] * expected
        torch.testing.assert_close(found, torch.as_tensor(whole).expand(rows).double())


def test_one_row_has_no_graph_and_few_tokens_are_spread_over_the_batch() -> None:
    shapes = shapes_of(TokenGraph)
    alone = sides_of(shapes, (1,))
    assert float(TokenGraph(shapes)(alone).detach().sum()) == 0
    few = TokenGraph(shapes, tokens=4, context=0.0)(sides_of(shapes))
    assert few.unique().numel() == 1
    with pytest.raises(BadInput, match="tau 0: give a number above 0"):
        TokenGraph(shapes, tau=0.0)
    with pytest.raises(BadInput, match="tokens 1: a graph is between rows"):
        TokenGraph(shapes, tokens=1)


def test_gradients_are_right_and_a_student_that_is_its_teacher_is_only_told_apart() -> None:
    shapes = shapes_of(TokenGraph)
    module, sides = TokenGraph(shapes, neighbours=2).double(), sides_of(shapes, (1, 3))

    def loss(student_ND: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = module(replace(sides, student={"final": student_ND}))
        return found

    assert torch.autograd.gradcheck(loss, (sides.student["final"].requires_grad_(), *module.parameters()))
    same = shapes_of(TokenGraph, same=True)
    alike = sides_of(same)
    found = TokenGraph(same, contrast=0.0)(replace(alike, student=dict(alike.teacher)))
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-12, rtol=0)
