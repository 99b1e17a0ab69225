"""Frame a picture as an image processor of transformers does: resize it, then take the middle.

Axes: H height, W width of a picture.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.format.views import Interpolation
from logitstore.image.views.boxes import Box
from logitstore.image.views.framing.boxed import Boxed
from logitstore.image.views.framing.resizing import Size, resized
from logitstore.image.views.levels import nearest
from logitstore.image.views.uniforms import Uniforms


@dataclass(frozen=True, kw_only=True)
class Middle(Boxed):
    """Take the middle of a picture, then resize it.

    Attributes:
        share: share of the edges of the largest box in the shape of a view.
    """

    share: float

    def __call__(self, height: int, width: int, aspect: float, uniforms: Uniforms) -> Box:
        tall = max(math.floor(self.share * min(height, width / aspect)), 1)
        wide = max(math.floor(self.share * min(width, height * aspect)), 1)
        top, left = (height - tall) // 2, (width - wide) // 2
        return Box(top=top, left=left, bottom=top + tall, right=left + wide)

    def frame(
        self, picture_HW3: Array, usual: Size, size: Size, interpolation: Interpolation, uniforms: Uniforms
    ) -> Tensor:
        height, width = picture_HW3.shape[:2]
        box = self(height, width, usual[1] / usual[0], uniforms)
        return resized(picture_HW3[box.rows, box.columns], size, interpolation)


class Resized(ABC):
    """A framing that resizes a whole picture, and shows the middle of it; what lies outside the picture is black."""

    @abstractmethod
    def size_of(self, height: int, width: int, scale: tuple[float, float]) -> Size:
        """Return height and width that a picture is resized to.

        Args:
            height, width: of the picture.
            scale: height and width of the view, in those that it usually has.
        """

    def frame(
        self, picture_HW3: Array, usual: Size, size: Size, interpolation: Interpolation, uniforms: Uniforms
    ) -> Tensor:
        height, width = picture_HW3.shape[:2]
        scale = size[0] / usual[0], size[1] / usual[1]
        inner = self.size_of(height, width, scale)
        (from_rows, rows), (from_columns, columns) = (
            _span(length, count) for length, count in zip(inner, size, strict=True)
        )
        shown_3HW = torch.zeros((3, *size), dtype=torch.uint8)
        shown_3HW[:, rows, columns] = resized(picture_HW3, inner, interpolation, (from_rows, from_columns))
        return shown_3HW


@dataclass(frozen=True, kw_only=True)
class Shortest(Resized):
    """Resize a picture by the length of its shorter side.

    Attributes:
        edge: the length of the shorter side.
        longest: the most that the longer side may have; the shorter side is shorter where it would have more. 0 for no limit.
    """

    edge: int
    longest: int

    def size_of(self, height: int, width: int, scale: tuple[float, float]) -> Size:
        short, long = min(height, width), max(height, width)
        edge, longest = (max(nearest(length * scale[0]), 1) for length in (self.edge, self.longest))
        if self.longest and long / short * edge > longest:
            exact = longest * short / long
            edge, across = max(round(exact), 1), max(math.floor(exact * long / short), 1)
        else:
            across = edge * long // short
        if edge == short:
            across = long
        return (edge, across) if height <= width else (across, edge)


@dataclass(frozen=True, kw_only=True)
class Squash(Resized):
    """Resize a picture to a height and a width, whatever its shape."""

    height: int
    width: int

    def size_of(self, height: int, width: int, scale: tuple[float, float]) -> Size:
        return max(nearest(self.height * scale[0]), 1), max(nearest(self.width * scale[1]), 1)


@dataclass(frozen=True, kw_only=True)
class Native(Resized):
    """Leave a picture at its size."""

    def size_of(self, height: int, width: int, scale: tuple[float, float]) -> Size:
        return max(nearest(height * scale[0]), 1), max(nearest(width * scale[1]), 1)


def _span(length: int, count: int) -> tuple[slice, slice]:
    """Return the pixels of an axis of `length` pixels that are seen in the middle `count`, and where they are there."""
    first = (length - count) // 2
    start, stop = max(first, 0), min(first + count, length)
    return slice(start, stop), slice(start - first, stop - first)
