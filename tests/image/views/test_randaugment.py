"""RandAugment draws as the specification says."""

from __future__ import annotations

import math

import torch

from logitstore.image.views.levels import picture_of, unit
from logitstore.image.views.randaugment import OPERATIONS
from logitstore.image.views.replay import replay
from tests.parts.view_formulas import philox
from tests.parts.views import info_of, picture


def test_randaugment_draws_as_the_specification_says() -> None:
    info = info_of("whole,randaugment:n=3:m=7")
    plain = replay(picture(), info_of("whole"), 0, 0)
    drawn: list[str] = []
    for view in range(30):
        numbers, expected = philox(info.seed, 0, view, 1), plain
        for _ in range(3):
            name = list(OPERATIONS)[math.floor(14 * next(numbers))]
            expected = picture_of(OPERATIONS[name](unit(expected), -0.7 if next(numbers) < 0.5 else 0.7))
            drawn.append(name)
        assert torch.equal(replay(picture(), info, 0, view), expected)
    assert set(drawn) == set(OPERATIONS)
