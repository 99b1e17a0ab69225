"""Jitter is that of the specification."""

from __future__ import annotations

import colorsys
import math

import numpy as np

from logitstore.core.types import Array
from logitstore.image.views.replay import replay
from tests.parts.view_formulas import philox, to_levels
from tests.parts.views import info_of, picture


def jittered(unit_3HW: Array, order: list[int], amounts: list[float]) -> Array:
    """Brightness, contrast, saturation and hue in an order, each by its formula."""
    for step in order:
        luma_HW = np.tensordot([0.299, 0.587, 0.114], unit_3HW, 1)
        if step == 0:
            unit_3HW = unit_3HW * amounts[0]
        elif step == 1:
            unit_3HW = unit_3HW * amounts[1] + luma_HW.mean() * (1 - amounts[1])
        elif step == 2:
            unit_3HW = unit_3HW * amounts[2] + luma_HW * (1 - amounts[2])
        else:
            turned = [turn(*pixel, amounts[3]) for pixel in unit_3HW.reshape(3, -1).T]
            unit_3HW = np.array(turned).T.reshape(unit_3HW.shape)
        unit_3HW = np.clip(unit_3HW, 0, 1)
    return unit_3HW


def turn(red: float, green: float, blue: float, turns: float) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)


def test_jitter_is_that_of_the_specification() -> None:
    info = info_of("whole,jitter:brightness=0.5:contrast=0.6:saturation=0.7:hue=0.2", size=(12, 15))
    plain = replay(picture(), info_of("whole", size=(12, 15)), 0, 0).numpy() / 255
    orders = set()
    for view in range(12):
        numbers = philox(info.seed, 0, view, 1)
        assert next(numbers) < 1
        order = list(range(4))
        for place in (3, 2, 1):
            other = math.floor((place + 1) * next(numbers))
            order[place], order[other] = order[other], order[place]
        amounts = [1 - s + ((1 + s) - (1 - s)) * next(numbers) for s in (0.5, 0.6, 0.7)]
        amounts.append(-0.2 + 0.4 * next(numbers))
        expected = to_levels(255 * jittered(plain, order, amounts))
        made = replay(picture(), info, 0, view).numpy()
        # kornia divides by the value plus 1e-8, which may move a level that lies on the edge
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert (made != expected).mean() < 0.01
        orders.add(tuple(order))
    assert len(orders) > 6
    still = info_of("whole,jitter:brightness=0:contrast=0:saturation=0:hue=0", size=(12, 15))
    np.testing.assert_array_equal(replay(picture(), still, 0, 0) / 255, plain.astype(np.float32))
