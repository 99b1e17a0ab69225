"""Apply a few random operations, all of one strength (Cubuk et al. 2020, RandAugment)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_saturation_with_gray_subtraction,
    equalize,
    posterize,
    sharpness,
    solarize,
)
from torch import Tensor

from logitstore.image.views.levels import nearest, picture_of, unit
from logitstore.image.views.uniforms import Uniforms
from logitstore.image.views.warp import rotated, sheared_along_x, sheared_along_y, translated


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """Apply some random operations to the picture.

    Attributes:
        n: number of operations; one may come more than once.
        m: their strength, from 0 to 10.
    """

    n: int
    m: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        """Return the changed picture. This takes two uniform numbers for each operation: one chooses it, one its direction."""
        for _ in range(self.n):
            name = list(OPERATIONS)[uniforms.below(len(OPERATIONS))]
            strength = -self.m / 10 if uniforms.happens(0.5) else self.m / 10
            picture_3HW = picture_of(OPERATIONS[name](unit(picture_3HW), strength))
        return picture_3HW


def _with_contrast(unit_3HW: Tensor) -> Tensor:
    """Stretch each channel to 0 .. 1, unless it has one level only."""
    low_311, high_311 = unit_3HW.amin((-2, -1), keepdim=True), unit_3HW.amax((-2, -1), keepdim=True)
    return torch.where(high_311 > low_311, (unit_3HW - low_311) / (high_311 - low_311), unit_3HW)


def _solarized(unit_3HW: Tensor, strength: float) -> Tensor:
    """Invert the levels from a threshold on. It lies half a level below a whole level, so that no rounding decides."""
    turned: Tensor = solarize(unit_3HW, (math.ceil(256 - 256 * abs(strength)) - 0.5) / 255)
    return turned


def _sharpened(unit_3HW: Tensor, strength: float) -> Tensor:
    """Sharpen all but the outermost pixels. Without inner pixels nothing is done; kornia would refuse such a picture."""
    return sharpness(unit_3HW, 1 + 0.9 * strength) if min(unit_3HW.shape[-2:]) > 2 else unit_3HW


OPERATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "identity": lambda unit_3HW, _: unit_3HW,
    "autocontrast": lambda unit_3HW, _: _with_contrast(unit_3HW),
    "equalize": lambda unit_3HW, _: equalize(unit_3HW),
    "rotate": lambda unit_3HW, strength: rotated(unit_3HW, 30 * strength),
    "solarize": _solarized,
    "color": lambda unit_3HW, strength: adjust_saturation_with_gray_subtraction(unit_3HW, 1 + 0.9 * strength),
    "posterize": lambda unit_3HW, strength: posterize(unit_3HW, 8 - nearest(4 * abs(strength))),
    "contrast": lambda unit_3HW, strength: adjust_contrast_with_mean_subtraction(unit_3HW, 1 + 0.9 * strength),
    "brightness": lambda unit_3HW, strength: adjust_brightness_accumulative(unit_3HW, 1 + 0.9 * strength),
    "sharpness": _sharpened,
    "shear-x": lambda unit_3HW, strength: sheared_along_x(unit_3HW, 0.3 * strength),
    "shear-y": lambda unit_3HW, strength: sheared_along_y(unit_3HW, 0.3 * strength),
    "translate-x": lambda unit_3HW, strength: translated(unit_3HW, 0.45 * strength, 0),
    "translate-y": lambda unit_3HW, strength: translated(unit_3HW, 0, 0.45 * strength),
}
"""The fourteen operations of the paper, in its order; strength is from -1 to 1, where 1 is the magnitude 10 of AutoAugment."""
