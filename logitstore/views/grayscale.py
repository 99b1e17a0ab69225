"""Turn colours into greys."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from logitstore.views.levels import rounded
from logitstore.views.uniforms import Uniforms


@dataclass(frozen=True, kw_only=True)
class Grayscale:
    """Put the luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, into all channels, with chance p."""

    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        if not uniforms.happens(self.p):
            return picture_3HW
        red_HW, green_HW, blue_HW = picture_3HW.double()
        return rounded(0.299 * red_HW + 0.587 * green_HW + 0.114 * blue_HW).repeat(3, 1, 1)
