"""Make one view of one picture again."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.format.views import MIXING, TransformInfo, ViewInfo
from logitstore.image.views import TRANSFORMS
from logitstore.image.views.uniforms import Uniforms, seed_of


def replay(picture_HW3: Array, info: ViewInfo, image: int, view: int, size: tuple[int, int] | None = None) -> Tensor:
    """Return a view, which depends on the arguments alone, whatever else this process or machine does.

    Args:
        picture_HW3: uint8, RGB, as decoded; at least one pixel.
        info: how views are made.
        image: number of the image in its data set.
        view: number of the view.
        size: height and width of the view, where they differ from `info.size`: the same crop, colours and boxes at another
            resolution.

    Returns:
        uint8[3, height, width] on the CPU. Mixing is left to `finish`.

    Raises:
        ValueError: the picture has another shape or type.
        BadInput: a transform needs kornia, which is not installed.
    """
    if picture_HW3.dtype != np.uint8 or picture_HW3.ndim != 3 or picture_HW3.shape[2] != 3 or not picture_HW3.size:
        raise ValueError(f"a picture is uint8[H, W, 3], not {picture_HW3.dtype}{list(picture_HW3.shape)}")
    key = seed_of(info.seed, image, view)
    framing, *others = info.transforms
    picture_3HW: Tensor = _made(framing).frame(
        picture_HW3, info.size, size or info.size, info.interpolation, Uniforms(key, 0)
    )
    for stream, transform in enumerate(others, 1):
        if transform.name not in MIXING:
            picture_3HW = _made(transform)(picture_3HW, Uniforms(key, stream))
    return picture_3HW


def _made(transform: TransformInfo) -> Any:
    try:
        return TRANSFORMS[transform.name](**transform.arguments)
    except ModuleNotFoundError as error:
        raise BadInput(
            f"the transform '{transform.name}' needs {str(error.name).partition('.')[0]}, which is not installed. "
            "Install it: pip install 'logitstore[vision]'."
        ) from error
