"""Resize a picture with Pillow, as image processors do, so that a view has their pixels to the last bit."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from logitstore.core.types import Array
from logitstore.format.views import Interpolation

Size = tuple[int, int]
"""Height and width, in pixels."""

IN_TORCH = ("bilinear", "bicubic")
"""Filters with which torch resizes the boxes of `whole`, `center` and `crop`."""

MOST = 1 << 26
"""Pixels of a resized picture that is made whole. Of a longer one, such as a line of pixels, only what is seen is made."""


def resized(
    picture_HW3: Array, size: Size, interpolation: Interpolation, seen: tuple[slice, slice] | None = None
) -> Tensor:
    """Return uint8[3, rows, columns] from uint8[H, W, 3].

    Args:
        picture_HW3: the picture.
        size: height and width that it is resized to.
        interpolation: the filter.
        seen: rows and columns of the resized picture that are returned; None for all.
    """
    rows, columns = seen or (slice(0, size[0]), slice(0, size[1]))
    whole, image = (picture_HW3.shape[0], picture_HW3.shape[1]), Image.fromarray(np.ascontiguousarray(picture_HW3))
    number = Image.Resampling[interpolation.upper()]
    if size[0] * size[1] <= MOST:
        levels_HW3 = np.asarray(image.resize(size[::-1], number))[rows, columns]
    else:
        down, across = whole[0] / size[0], whole[1] / size[1]
        box = columns.start * across, rows.start * down, columns.stop * across, rows.stop * down
        levels_HW3 = np.asarray(image.resize((columns.stop - columns.start, rows.stop - rows.start), number, box))
    return torch.from_numpy(levels_HW3.transpose(2, 0, 1).copy())
