"""Pictures turned, slanted and moved; what comes in from outside is mid grey.

Points are (x, y) in pixels from the upper left corner of a picture, y downward.
"""

from __future__ import annotations

import math

from kornia.geometry.transform import warp_affine
from torch import Tensor

GREY = 128 / 255


def rotated(unit_3HW: Tensor, degrees: float) -> Tensor:
    """A picture turned about its middle, counterclockwise."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = unit_3HW.shape[-1] / 2, unit_3HW.shape[-2] / 2
    return _warped(unit_3HW, (cosine, sine, x - cosine * x - sine * y), (-sine, cosine, y + sine * x - cosine * y))


def sheared(unit_3HW: Tensor, along_x: float, along_y: float) -> Tensor:
    """A picture whose (x, y) goes to (x + along_x y, y + along_y x)."""
    return _warped(unit_3HW, (1, along_x, 0), (along_y, 1, 0))


def translated(unit_3HW: Tensor, right: float, down: float) -> Tensor:
    """A picture moved by shares of its edges."""
    return _warped(unit_3HW, (1, 0, right * unit_3HW.shape[-1]), (0, 1, down * unit_3HW.shape[-2]))


def _warped(unit_3HW: Tensor, to_x: tuple[float, float, float], to_y: tuple[float, float, float]) -> Tensor:
    """float64[3, H, W]: (x, y) goes to (a x + b y + c for each of the two); bilinear between the middles of pixels."""
    # kornia counts from the middle of the first pixel
    matrix_23 = [[a, b, a / 2 + b / 2 + c - 0.5] for a, b, c in (to_x, to_y)]
    warped_13HW: Tensor = warp_affine(
        unit_3HW[None],
        unit_3HW.new_tensor([matrix_23]),
        (unit_3HW.shape[-2], unit_3HW.shape[-1]),
        padding_mode="fill",
        align_corners=False,
        fill_value=unit_3HW.new_full((3,), GREY),
    )
    return warped_13HW[0]
