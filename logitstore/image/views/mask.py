"""Blank most patches of a picture, as masked image models see it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from logitstore.image.views.boxes import Box
from logitstore.image.views.levels import nearest
from logitstore.image.views.uniforms import Uniforms

BLANK = 128
"""The level of blanked pixels."""


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Blank a share of the cells of a grid, any of them as likely (He et al. 2022, Masked Autoencoders, section 3).

    The cells are drawn in shares of the edges, so they are the same in a view of another size. With as many cells to a line
    as a model has patches, whole patches are blanked.

    Attributes:
        share: of the cells that are blanked.
        grid: cells to a line, and lines.
    """

    share: float
    grid: int

    def __call__(self, picture_3HW: Tensor, uniforms: Uniforms) -> Tensor:
        """Return the picture with cells blanked. This takes one uniform number for each cell but one."""
        blanked_3HW, size = picture_3HW.clone(), (picture_3HW.shape[-2], picture_3HW.shape[-1])
        count = self.grid**2
        for cell in uniforms.order(count)[: nearest(self.share * count)]:
            line, column = divmod(cell, self.grid)
            edges = (line / self.grid, column / self.grid, (line + 1) / self.grid, (column + 1) / self.grid)
            box = Box.of(edges, size)
            blanked_3HW[:, box.rows, box.columns] = BLANK
        return blanked_3HW
