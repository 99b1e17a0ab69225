"""Change pixels: mirrored, grey, and noise in a box."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.image.views.boxes import Box
from logitstore.image.views.levels import rounded
from logitstore.image.views.uniforms import Uniforms

TRIES = 10
"""Most boxes that are drawn until one lies inside the picture."""


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror the picture, with chance p."""

    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        return picture_3HW.flip(-1) if uniforms.happens(self.p) else picture_3HW


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """Put the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, into all channels, with chance p."""

    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        if not uniforms.happens(self.p):
            return picture_3HW
        return luma(picture_3HW).repeat(3, 1, 1)


def luma(picture_3HW: Tensor) -> Tensor:
    """Return uint8[..., 1, H, W]: the luma of pictures uint8[..., 3, H, W]."""
    red_1HW, green_1HW, blue_1HW = torch.split(picture_3HW.double(), 1, -3)
    return rounded(0.299 * red_1HW + 0.587 * green_1HW + 0.114 * blue_1HW)


@dataclass(frozen=True, kw_only=True)
class Erase:
    """Put random pixels into a random box, with chance p (Zhong et al. 2020, Random Erasing).

    The box is drawn in shares of the edges, so it is the same in a view of another size; the noise is not.

    Attributes:
        p: chance that the picture is changed.
        scale: range of the share of the area, uniform.
        ratio: range of height / width where both edges of the picture count as 1, uniform in its logarithm.
    """

    p: float
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        """Return the picture with a box erased; nothing is erased where no box fits.

        This takes one uniform number for p; two for each try, two for the place; then one for each erased number.
        """
        if not uniforms.happens(self.p):
            return picture_3HW
        for _ in range(TRIES):
            area, ratio = uniforms.between(*self.scale), uniforms.log_between(*self.ratio)
            tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if tall <= 1 and wide <= 1:
                top, left = uniforms.between(0, 1 - tall), uniforms.between(0, 1 - wide)
                box = Box.of((top, left, top + tall, left + wide), (picture_3HW.shape[-2], picture_3HW.shape[-1]))
                noise_3HW = torch.from_numpy(256 * uniforms.numbers((3, box.height, box.width))).to(torch.uint8)
                noisy_3HW = picture_3HW.clone()
                noisy_3HW[:, box.rows, box.columns] = noise_3HW
                return noisy_3HW
        return picture_3HW
