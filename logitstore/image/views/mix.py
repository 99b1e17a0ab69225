"""Mix another image into a view: a share of every pixel (mixup), or a box (cutmix)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from logitstore.format.views import MIXING, ViewInfo
from logitstore.image.views import TRANSFORMS
from logitstore.image.views.boxes import Box, Shares
from logitstore.image.views.uniforms import Uniforms, seed_of


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A mix says how a view is mixed with that of another image.

    Attributes:
        partner: number of the other image. It is seen in its own view of the same number, which is not mixed itself.
        weight: share of the own view, from 0 to below 1, exact in float32; the rest is the partner's. Labels are mixed with
            it.
        box: for cutmix, the box in which the partner is seen; None for mixup. Its edges lie between pixels of a view of the
            size `ViewInfo.size`, and 1 - `weight` is the share of the pixels inside.
    """

    partner: int
    weight: float
    box: Shares | None


def mixing(info: ViewInfo, image: int, images: int, view: int) -> Mix | None:
    """Return how a view is mixed; None where it is not.

    Args:
        info: how views are made. If it names both mixup and cutmix, one of them is drawn, and happens with its own chance.
        image: number of the image, below `images`.
        images: number of images of the data set; each of the others may be the partner.
        view: number of the view.
    """
    places = [place for place, transform in enumerate(info.transforms) if transform.name in MIXING]
    if not places or images < 2:
        return None
    uniforms = Uniforms(seed_of(info.seed, image, view), places[0])
    drawn = info.transforms[places[uniforms.below(len(places))]]
    transform: Mixup | Cutmix = TRANSFORMS[drawn.name](**drawn.arguments)
    if not uniforms.happens(transform.p):
        return None
    partner = uniforms.below(images - 1)
    weight, box = transform(info.size, uniforms)
    return Mix(partner=partner + (partner >= image), weight=weight, box=box) if weight < 1 else None


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Mix all pixels, with a weight from Beta(alpha, alpha) (Zhang et al. 2018), with chance p."""

    alpha: float
    p: float

    def __call__(self, size: tuple[int, int], uniforms: Uniforms) -> tuple[float, Shares | None]:
        """Return weight and box of a mix."""
        return float(np.float32(uniforms.beta(self.alpha))), None


@dataclass(frozen=True, kw_only=True)
class Cutmix:
    """Replace a box (Yun et al. 2019), with chance p.

    The edges of the box are sqrt(1 - b) of those of the view, with b from Beta(alpha, alpha). Its middle is uniform in the
    view; the part outside is cut off.
    """

    alpha: float
    p: float

    def __call__(self, size: tuple[int, int], uniforms: Uniforms) -> tuple[float, Shares | None]:
        """Return weight and box of a mix: the box as it is in a view of this size, and the share of pixels outside as the
        weight."""
        height, width = size
        half = math.sqrt(1 - uniforms.beta(self.alpha)) / 2
        y, x = uniforms.number(), uniforms.number()
        box = Box.of((max(y - half, 0), max(x - half, 0), min(y + half, 1), min(x + half, 1)), size)
        weight = float(np.float32(1 - box.height * box.width / (height * width)))
        return weight, (box.top / height, box.left / width, box.bottom / height, box.right / width)
