"""Change the colours of a picture. Only this transform and RandAugment need kornia."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kornia.enhance import (
    adjust_brightness_accumulative,
    adjust_contrast_with_mean_subtraction,
    adjust_hue,
    adjust_saturation_with_gray_subtraction,
)
from torch import Tensor

from logitstore.image.views.levels import picture_of, unit
from logitstore.image.views.uniforms import Uniforms


@dataclass(frozen=True, kw_only=True)
class Jitter:
    """Change the colours, with chance p (as in Chen et al. 2020, SimCLR, appendix A).

    Attributes:
        brightness, contrast, saturation: s of a factor from 1 - s to 1 + s.
        hue: the largest turn in either direction, where 1 is the whole circle.
        p: chance that the picture is changed.
    """

    brightness: float
    contrast: float
    saturation: float
    hue: float
    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        """Return the changed picture. This takes one uniform number for p, three for the order, four for the amounts."""
        if not uniforms.happens(self.p):
            return picture_3HW
        order = uniforms.order(4)
        strengths = (self.brightness, self.contrast, self.saturation)
        brighter, contrast, saturation = (uniforms.between(1 - each, 1 + each) for each in strengths)
        turn = uniforms.between(-self.hue, self.hue)
        steps: list[Callable[[Tensor], Tensor]] = [
            lambda unit_3HW: adjust_brightness_accumulative(unit_3HW, brighter),
            lambda unit_3HW: adjust_contrast_with_mean_subtraction(unit_3HW, contrast),
            lambda unit_3HW: adjust_saturation_with_gray_subtraction(unit_3HW, saturation),
            lambda unit_3HW: adjust_hue(unit_3HW, 2 * math.pi * turn) if self.hue else unit_3HW,
        ]
        changed_3HW = unit(picture_3HW)
        for step in order:
            changed_3HW = steps[step](changed_3HW)
        return picture_of(changed_3HW)
