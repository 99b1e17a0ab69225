"""Pictures are turned, slanted and moved as the specification says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from logitstore.core.types import Array
from logitstore.image.views.levels import picture_of, unit
from logitstore.image.views.randaugment import OPERATIONS
from tests.parts.view_formulas import planar, to_levels
from tests.parts.views import picture


def moved(picture_3HW: Array, forward: Array) -> Array:
    """A picture whose points (x, y), from its corner, go to `forward` @ (x, y, 1): bilinear, grey outside."""
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    height, width = picture_3HW.shape[1:]
    padded = np.pad(picture_3HW.astype(np.float64), ((0, 0), (1, 1), (1, 1)), constant_values=128)
    made = np.full(picture_3HW.shape, 128.0)
    for row in range(height):
        for column in range(width):
            x, y, _ = back @ (column + 0.5, row + 0.5, 1) + (0.5, 0.5, 0)
            left, top = math.floor(x), math.floor(y)
            if 0 <= left <= width and 0 <= top <= height:
                four = padded[:, top : top + 2, left : left + 2]
                made[:, row, column] = np.array([1 - y + top, y - top]) @ four @ np.array([1 - x + left, x - left])
    return made


@pytest.mark.parametrize("strength", [-1.0, 0.37, 0.9])
@pytest.mark.parametrize("shape", [(13, 17), (1, 6), (6, 1)])
def test_pictures_are_turned_slanted_and_moved_as_the_specification_says(
    strength: float, shape: tuple[int, int]
) -> None:
    height, width = shape
    small = planar(picture(0, *shape))
    angle = math.radians(30 * strength)
    about = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    rotation = [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    matrices = {
        "rotate": (about @ rotation @ np.linalg.inv(about))[:2],
        "shear-x": [[1, 0.3 * strength, 0], [0, 1, 0]],
        "shear-y": [[1, 0, 0], [0.3 * strength, 1, 0]],
        "translate-x": [[1, 0, 0.45 * strength * width], [0, 1, 0]],
        "translate-y": [[1, 0, 0], [0, 1, 0.45 * strength * height]],
    }
    for name, matrix in matrices.items():
        made = picture_of(OPERATIONS[name](unit(small), strength)).numpy()
        np.testing.assert_array_equal(made, to_levels(moved(small.numpy(), np.array(matrix))), name)
    # counterclockwise is what Pillow calls positive
    turned = Image.fromarray(picture(0, 9, 9)).rotate(30, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)
    ours = picture_of(OPERATIONS["rotate"](unit(planar(picture(0, 9, 9))), 1.0)).permute(1, 2, 0).numpy()
    assert np.abs(ours[3:6, 3:6].astype(int) - np.asarray(turned, int)[3:6, 3:6]).max() <= 1
