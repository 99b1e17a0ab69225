"""Objectives that match states, against float64 references with loops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from logitstore.errors import BadInput
from logitstore.train.objectives.features import Match, SquareHead
from tests.parts.feature_references import built, projected, shapes_of, sides_of


@pytest.mark.parametrize("same", [False, True])
def test_mse_is_the_mean_over_pairs_of_the_mean_over_channels(same: bool) -> None:
    module, shapes = built("mse", same=same)
    assert isinstance(module, Match)
    sides = sides_of(shapes)
    pairs = projected(module, sides)
    assert (next(module.parameters(), None) is None) == same
    expected = sum(((own - other) ** 2).sum(1) / own.shape[1] for own, other in pairs) / len(pairs)
    torch.testing.assert_close(module(sides), expected)


def test_cosine_is_one_minus_the_cosine_of_the_projected_states() -> None:
    module, shapes = built("cosine")
    assert isinstance(module, Match)
    sides = sides_of(shapes)
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in projected(module, sides):
        for row in range(len(expected)):
            expected[row] += (1 - own[row] @ other[row] / (own[row].norm() * other[row].norm())) / 2
    torch.testing.assert_close(module(sides), expected)


def test_equal_widths_are_projected_when_asked() -> None:
    shapes = shapes_of(Match, same=True)
    assert len(list(Match(shapes, project="always").parameters())) == 2
    sides = sides_of(shapes)
    module = Match(shapes, project="always")
    torch.testing.assert_close(
        module(sides), sum(((own - other) ** 2).mean(1) for own, other in projected(module, sides)) / 2
    )


def test_square_head_averages_to_the_quotient_of_errors_of_the_batch() -> None:
    module, shapes = built("square head")
    assert isinstance(module, SquareHead)
    sides = sides_of(shapes)
    sides.mask_N[[0, 5]] = False
    counted = sides.mask_N
    expected = sum(
        nn.functional.mse_loss(own[counted], other[counted]) / (other[counted].square().mean() + 2**-7)
        for own, other in projected(module, sides)
    )
    torch.testing.assert_close(module(sides)[counted].mean(), torch.as_tensor(expected))


@pytest.mark.parametrize("kind", ["l1", "huber"])
@pytest.mark.parametrize("norm", ["none", "teacher", "both"])
def test_distances_of_masked_image_models_are_those_of_a_loop_over_channels(kind: str, norm: str) -> None:
    shapes = shapes_of(Match)
    module = Match(shapes, kind=kind, norm=norm)
    sides = sides_of(shapes)
    expected = torch.zeros(len(sides.mask_N), dtype=torch.float64)
    for own, other in projected(module, sides):
        for row in range(len(expected)):
            one, two = 3 * own[row], other[row]
            if norm == "teacher":
                two = (two - two.mean()) / (two.var(correction=0) + 1e-5).sqrt()
            if norm == "both":
                one, two = one / one.norm(), two / two.norm()
            for apart in (one - two).abs():
                expected[row] += (apart if kind == "l1" else apart**2 / 4 if apart < 2 else apart - 1) / len(two) / 2
    tripled = replace(sides, student={name: 3 * value for name, value in sides.student.items()})
    torch.testing.assert_close(module(tripled), expected)
    with pytest.raises(BadInput, match="norm 'student': write none, teacher or both"):
        Match(shapes, norm="student")
