"""Mirror a picture, so that left becomes right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from logitstore.core.types import Array
from logitstore.image.views.boxes import Box
from logitstore.image.views.levels import nearest, rounded
from logitstore.image.views.uniforms import Uniforms


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror the picture, with chance p."""

    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        return picture_3HW.flip(-1) if uniforms.happens(self.p) else picture_3HW


TRIES = 10
"""Most crops that are drawn until one lies inside the picture."""


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Take all of a picture, squashed where a view has another shape."""

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        return Box(top=0, left=0, bottom=height, right=width)


@dataclass(frozen=True, kw_only=True)
class Center:
    """Take the middle of a picture, in the shape of a view.

    Attributes:
        share: share of the edges of the largest such box.
    """

    share: float

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        return _centred(height, width, aspect, self.share)


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Take a random box, squashed where a view has another shape (Szegedy et al. 2015, section 6).

    Attributes:
        scale: range of the share of the picture's area, uniform.
        ratio: range of width / height, uniform in its logarithm.
    """

    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        """Return the first drawn box that fits; if none fits, the largest box in the middle with a ratio in the range.

        This takes two uniform numbers for each try, two more for the place.
        """
        for _ in range(TRIES):
            area = uniforms.between(*self.scale) * height * width
            ratio = uniforms.log_between(*self.ratio)
            tall, wide = nearest(math.sqrt(area / ratio)), nearest(math.sqrt(area * ratio))
            if 1 <= tall <= height and 1 <= wide <= width:
                top, left = uniforms.below(height - tall + 1), uniforms.below(width - wide + 1)
                return Box(top=top, left=left, bottom=top + tall, right=left + wide)
        low, high = self.ratio
        return _centred(height, width, min(max(width / height, low), high), 1.0)


def _centred(height: int, width: int, aspect: float, share: float) -> Box:
    tall = max(nearest(share * min(height, width / aspect)), 1)
    wide = max(nearest(share * min(width, height * aspect)), 1)
    top, left = (height - tall) // 2, (width - wide) // 2
    return Box(top=top, left=left, bottom=top + tall, right=left + wide)


def framed(
    picture_HW3: Array, box: Box, size: tuple[int, int], interpolation: Literal["bilinear", "bicubic"]
) -> Tensor:
    """Return uint8[3, *size]: a box of a picture uint8[H, W, 3], resized with antialiasing. Nothing outside the box has an
    effect."""
    seen_3HW = picture_HW3[box.rows, box.columns].transpose(2, 0, 1)
    # copied by NumPy, because torch warns of memory that may not be written to, such as that of a decoded picture
    levels_13HW = torch.from_numpy(seen_3HW[None].astype(np.float64, order="C"))
    return rounded(interpolate(levels_13HW, size, mode=interpolation, antialias=True, align_corners=False)[0])
