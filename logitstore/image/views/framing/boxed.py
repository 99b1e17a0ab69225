"""Frame a picture: the part of it that a view shows, resized to the size of the view.

Axes: H height, W width of a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from logitstore.core.types import Array
from logitstore.format.views import Interpolation
from logitstore.image.views.boxes import Box
from logitstore.image.views.framing.resizing import IN_TORCH, Size, resized
from logitstore.image.views.levels import nearest, rounded
from logitstore.image.views.uniforms import Uniforms

TRIES = 10
"""Most crops that are drawn until one lies inside the picture."""


class Boxed(ABC):
    """A framing that cuts a box out of the picture, in its whole pixels, and resizes it to the size of the view."""

    @abstractmethod
    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        """Return the box for a picture of this height and width; `aspect` is width / height of a view."""

    def frame(
        self,
        picture_HW3: Array,
        usual: Size,
        size: Size,
        interpolation: Interpolation,
        uniforms: Uniforms,
    ) -> Tensor:
        """Return uint8[3, *size]: what a view shows of a picture.

        Args:
            picture_HW3: uint8.
            usual: height and width that the teacher's views have; they decide the shape of the box.
            size: height and width of this view.
            interpolation: the filter of the resizing.
            uniforms: random numbers of the framing.
        """
        height, width = picture_HW3.shape[:2]
        box = self(height, width, usual[1] / usual[0], uniforms)
        return framed(picture_HW3, box, size, interpolation)


@dataclass(frozen=True, kw_only=True)
class Whole(Boxed):
    """Take all of a picture, squashed where a view has another shape."""

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        return Box(top=0, left=0, bottom=height, right=width)


@dataclass(frozen=True, kw_only=True)
class Center(Boxed):
    """Take the middle of a picture, in the shape of a view.

    Attributes:
        share: share of the edges of the largest such box.
    """

    share: float

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        return _centred(height, width, aspect, self.share)


@dataclass(frozen=True, kw_only=True)
class Crop(Boxed):
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


def framed(picture_HW3: Array, box: Box, size: Size, interpolation: Interpolation) -> Tensor:
    """Return uint8[3, *size]: a box of a picture uint8[H, W, 3], resized with antialiasing. Nothing outside the box has an
    effect."""
    seen_HW3 = picture_HW3[box.rows, box.columns]
    if interpolation not in IN_TORCH:
        return resized(seen_HW3, size, interpolation)
    seen_3HW = seen_HW3.transpose(2, 0, 1)
    # copied by NumPy, because torch warns of memory that may not be written to, such as that of a decoded picture
    levels_13HW = torch.from_numpy(seen_3HW[None].astype(np.float64, order="C"))
    return rounded(interpolate(levels_13HW, size, mode=interpolation, antialias=True, align_corners=False)[0])
