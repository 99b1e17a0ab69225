"""Operations on levels are those of Pillow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from logitstore.core.types import Array
from logitstore.image.views.levels import picture_of, unit
from logitstore.image.views.randaugment import OPERATIONS
from tests.parts.view_formulas import planar
from tests.parts.views import picture


def operated(name: str, strength: float) -> tuple[Array, Array]:
    """int[H, W, 3]: a picture, and what an operation makes of it."""
    made_3HW = picture_of(OPERATIONS[name](unit(planar(picture())), strength))
    return picture().astype(int), made_3HW.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("m", range(11))
def test_operations_on_levels_are_those_of_pillow(m: int) -> None:
    strength, image = m / 10, Image.fromarray(picture())
    exact = {
        "identity": image,
        "posterize": ImageOps.posterize(image, 8 - math.floor(0.4 * m + 0.5)),
        "solarize": ImageOps.solarize(image, math.ceil(256 - 25.6 * m)),
        "equalize": ImageOps.equalize(image),
    }
    for name, expected in exact.items():
        for sign in (-1, 1):
            np.testing.assert_array_equal(operated(name, sign * strength)[1], np.asarray(expected), name)
    # Pillow cuts fractions off, and the mean of contrast is a whole number there
    near = {
        "autocontrast": (ImageOps.autocontrast(image), 1),
        "brightness": (ImageEnhance.Brightness(image).enhance(1 + 0.09 * m), 1),
        "color": (ImageEnhance.Color(image).enhance(1 + 0.09 * m), 2),
        "contrast": (ImageEnhance.Contrast(image).enhance(1 + 0.09 * m), 2),
        "sharpness": (ImageEnhance.Sharpness(image).enhance(1 + 0.09 * m), 2),
    }
    for name, (close, levels) in near.items():
        assert np.abs(operated(name, strength)[1] - np.asarray(close, int)).max() <= levels, name


def test_autocontrast_and_equalize_treat_each_channel_alone_and_leave_one_with_few_levels() -> None:
    flat = picture().copy()
    flat[..., 1], flat[..., 2] = 9, 3 + (flat[..., 2] > 100)
    stretched = picture_of(OPERATIONS["autocontrast"](unit(planar(flat)), 1.0))
    assert (stretched[1] == 9).all()
    assert set(stretched[2].unique().tolist()) == {0, 255}
    spread = picture_of(OPERATIONS["equalize"](unit(planar(flat)), 1.0))
    np.testing.assert_array_equal(spread.permute(1, 2, 0), ImageOps.equalize(Image.fromarray(flat)))
