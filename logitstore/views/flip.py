"""Mirror a picture, so that left becomes right."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from logitstore.views.uniforms import Uniforms


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirror the picture, with chance p."""

    p: float

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        return picture_3HW.flip(-1) if uniforms.happens(self.p) else picture_3HW
