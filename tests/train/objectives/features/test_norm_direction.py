"""The objective on norm and direction against its formula."""

from __future__ import annotations

from dataclasses import replace

import pytest

from logitstore.train.objectives.features import NormDirection
from tests.parts.feature_references import built, class_means, projected, sides_of


@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_norm_and_direction_is_the_formula_for_short_students_and_for_long_ones(scale: float) -> None:
    module, shapes = built("norm and direction")
    assert isinstance(module, NormDirection)
    sides = sides_of(shapes, counts=(40,))
    sides = replace(sides, student={"final": scale * sides.student["final"]})
    sides.gold_N[7::9] = -1
    ((own, other),) = projected(module, sides)
    means = class_means().double()
    found = module(sides).detach()
    assert {-1, 1, 2} <= set(sides.gold_N.tolist())
    for row, gold in enumerate(sides.gold_N.tolist()):
        longest = max(own[row].norm(), other[row].norm())
        expected = 0.0 if gold in (-1, 1, 2) else 1 - own[row] @ means[gold] / (means[gold].norm() * longest)
        assert float(found[row]) == pytest.approx(float(expected), abs=1e-9)


def test_norm_and_direction_is_zero_on_a_student_that_is_the_class_mean_and_longer_than_the_teacher() -> None:
    module, shapes = built("norm and direction", same=True)
    sides = sides_of(shapes)
    sides = replace(sides, student={"final": 100 * class_means()[sides.gold_N].double()})
    assert float(module(sides).abs().max()) < 1e-6
