"""Turn, slant and move pictures; what comes in from outside is mid grey.

Points are (x, y) in pixels from the upper left corner of a picture, y downward.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

GREY = 128 / 255


def rotated(unit_3HW: Tensor, degrees: float) -> Tensor:
    """Return a picture turned about its middle, counterclockwise."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    x, y = unit_3HW.shape[-1] / 2, unit_3HW.shape[-2] / 2
    return _warped(unit_3HW, (cosine, -sine, x - cosine * x + sine * y), (sine, cosine, y - sine * x - cosine * y))


def sheared_along_x(unit_3HW: Tensor, slope: float) -> Tensor:
    """Return a picture whose (x, y) goes to (x + slope y, y)."""
    return _warped(unit_3HW, (1, -slope, 0), (0, 1, 0))


def sheared_along_y(unit_3HW: Tensor, slope: float) -> Tensor:
    """Return a picture whose (x, y) goes to (x, y + slope x)."""
    return _warped(unit_3HW, (1, 0, 0), (-slope, 1, 0))


def translated(unit_3HW: Tensor, right: float, down: float) -> Tensor:
    """Return a picture moved by shares of its edges."""
    return _warped(unit_3HW, (1, 0, -right * unit_3HW.shape[-1]), (0, 1, -down * unit_3HW.shape[-2]))


def _warped(unit_3HW: Tensor, seen_x: tuple[float, float, float], seen_y: tuple[float, float, float]) -> Tensor:
    """Return float64[3, H, W]. At (x, y) it has what was at a x + b y + c, with the three numbers of seen_x for the new x
    and of seen_y for the new y; bilinear between the middles of pixels.

    This uses torch itself: kornia before 0.9 takes the corners of a picture for the middles of its outermost pixels.
    """
    height, width = unit_3HW.shape[-2:]
    # torch counts from -1 to 1 along both edges
    (a, b, c), (d, e, f) = seen_x, seen_y
    b, d = b * height / width, d * width / height
    matrix_123 = unit_3HW.new_tensor([[[a, b, a + b + 2 * c / width - 1], [d, e, d + e + 2 * f / height - 1]]])
    grid_1HW2 = affine_grid(matrix_123, [1, 3, height, width], align_corners=False)
    # grid_sample gives 0 outside the picture
    return grid_sample(unit_3HW[None] - GREY, grid_1HW2, padding_mode="zeros", align_corners=False)[0] + GREY
