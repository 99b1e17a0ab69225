"""Between 8-bit pictures and float64, so that a picture does not depend on who computes it.

The last bits of a float depend on the processor, the number of threads and the library's version. Rounding to 8 bits hides
that, unless a value lies so close to a half that the last bits decide. Pictures are full of exact halves, the mean of two
neighbours for one. So a little is added before rounding down: every exact half goes up, and what is left to chance are
values within 1e-13 of half a level minus SLACK, about one picture in 10**8. In float32 it would be most pictures: 41 of 60
crops differed between torch's AVX2 and its plain code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLACK = 2.0**-20
"""Levels that are added so that an exact half is always rounded up."""


def nearest(number: float) -> int:
    """The nearest whole number, of two the higher."""
    return math.floor(number + 0.5)


def unit(picture_3HW: Tensor) -> Tensor:
    """float64[3, H, W] in [0, 1] of uint8[3, H, W]."""
    return picture_3HW.double() / 255


def picture_of(unit_3HW: Tensor) -> Tensor:
    """uint8[3, H, W] of float64[3, H, W] in [0, 1]; what is outside is cut off."""
    return rounded(unit_3HW * 255)


def rounded(levels: Tensor) -> Tensor:
    """uint8 of float64 levels from 0 to 255; what is outside is cut off."""
    return (levels + (0.5 + SLACK)).clamp_(0, 255).to(torch.uint8)
