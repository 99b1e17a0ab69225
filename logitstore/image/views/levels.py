"""Convert between 8-bit pictures and float64, so that a picture does not depend on the machine that computes it.

The last bits of a float depend on the processor, the number of threads and the library's version. Rounding to 8 bits hides
them, unless a value lies so close to a half that the last bits decide. Pictures are full of exact halves, such as the mean
of two neighbours. So a little is added before rounding down, and every exact half goes up. Only values within 1e-13 of half
a level minus SLACK are left to chance, about one picture in 10**8. In float32 it would be most pictures: 41 of 60 crops
differed between torch's AVX2 and its plain code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SLACK = 2.0**-20
"""Levels that are added so that an exact half is always rounded up."""


def nearest(number: float) -> int:
    """Return the nearest whole number; of two, the higher one."""
    return math.floor(number + 0.5)


def unit(picture_3HW: Tensor) -> Tensor:
    """Return float64[3, H, W] in [0, 1] from uint8[3, H, W]."""
    return picture_3HW.double() / 255


def picture_of(unit_3HW: Tensor) -> Tensor:
    """Return uint8[3, H, W] from float64[3, H, W] in [0, 1]; values outside are cut off."""
    return rounded(unit_3HW * 255)


def rounded(levels: Tensor) -> Tensor:
    """Return uint8 from float64 levels from 0 to 255; values outside are cut off."""
    return (levels + (0.5 + SLACK)).clamp_(0, 255).to(torch.uint8)
