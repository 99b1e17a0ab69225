"""Prove that views are what an image processor makes: show both some pictures, and compare every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from logitstore.core.types import Array
from logitstore.errors import ModelError, one_line
from logitstore.format.views import TransformInfo, ViewInfo
from logitstore.image.processors.described import Described
from logitstore.image.processors.saved import Processor
from logitstore.image.views.finish import finish
from logitstore.image.views.proof import versions
from logitstore.image.views.replay import replay

MOST_LEVELS = 1.5
"""Largest difference, in levels of 255. Pillow leaves none; a library that rounds in another way leaves one."""

_SHAPES = ((97, 143), (143, 97), (31, 31))
_COLOURS = ((0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255))


def prove(processor: Processor, found: Described) -> None:
    """Refuse a description that is not what the processor does with pictures of noise, wide, tall and small.

    Raises:
        ModelError: there is a difference, or the processor makes no pictures.
    """
    prove_numbers(processor, found)
    noise = np.random.default_rng(0)
    prove_pictures(processor, found, [noise.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in _SHAPES])


def prove_pictures(processor: Processor, found: Described, pictures: Sequence[Array]) -> None:
    """Refuse a description that is not what the processor does with some pictures.

    Args:
        processor: the processor.
        found: its description.
        pictures: uint8[H, W, 3].

    Raises:
        ModelError: there is a difference, or the processor makes no pictures.
    """
    for picture_HW3 in pictures:
        info = view_of(found)
        picture_HW3 = _seen(picture_HW3, processor)
        made_CHW, theirs = finish(replay(picture_HW3, info, 0, 0)[None], info)[0].numpy(), _made(processor, picture_HW3)
        height, width = picture_HW3.shape[:2]
        if theirs.shape != made_CHW.shape:
            raise _other(processor, f"of {height} x {width} it makes {theirs.shape}, views are {made_CHW.shape}")
        levels_CHW = np.abs(theirs - made_CHW) * 255 * np.array(found.std[: len(theirs)])[:, None, None]
        if not levels_CHW.max() <= MOST_LEVELS:
            raise _other(
                processor,
                f"of {height} x {width} the pixels differ by {levels_CHW.mean():.1f} of 255 levels on average, "
                f"{levels_CHW.max():.0f} at most",
            )


def prove_numbers(processor: Processor, found: Described) -> None:
    """Refuse a description whose mean, deviation or channels are not those of the processor; see `prove`."""
    colours = _COLOURS if processor.channels == 3 else _COLOURS[:2]
    for colour in colours:
        flat_HW3 = np.broadcast_to(np.array(colour, np.uint8), (64, 64, 3)).copy()
        theirs = _made(processor, flat_HW3)
        info = view_of(found, (1, 1), TransformInfo.of("whole"))
        made_C = finish(torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1), info)[0, :, 0, 0].numpy()
        middle_C = theirs[:, theirs.shape[1] // 2, theirs.shape[2] // 2]
        if middle_C.shape != made_C.shape or not np.allclose(middle_C, made_C, rtol=1e-4, atol=1e-4):
            raise _other(
                processor,
                f"a picture of the colour {list(colour)} becomes {np.round(middle_C, 4).tolist()}, in views "
                f"{np.round(made_C, 4).tolist()}",
            )


def view_of(found: Described, size: tuple[int, int] | None = None, framing: TransformInfo | None = None) -> ViewInfo:
    """Return how the views are made that nothing but a processor decides."""
    wanted, first = size or found.size, framing or found.framing
    if wanted is None or first is None:
        raise ValueError("the processor decides no size")
    return ViewInfo.model_validate(
        {
            "size": wanted,
            "transforms": (first,),
            "interpolation": found.interpolation,
            "mean": found.mean,
            "std": found.std,
            "channels": found.channels,
            "versions": versions((first,)),
        }
    )


def _seen(picture_HW3: Array, processor: Processor) -> Array:
    """Return the picture in grey for a model of one channel."""
    if processor.channels == 3:
        return picture_HW3
    return np.repeat(np.asarray(Image.fromarray(picture_HW3).convert("L"))[..., None], 3, -1)


def _made(processor: Processor, picture_HW3: Array) -> Array:
    """Return float[C, H, W], what a processor makes of a picture."""
    image = Image.fromarray(picture_HW3) if processor.channels == 3 else Image.fromarray(picture_HW3[..., 0])
    try:
        made: Any = np.asarray(processor.built(images=image, return_tensors="np")["pixel_values"])
    except Exception as error:
        # a processor may raise any error; the message keeps the reason
        raise _other(processor, f"it makes no picture ({one_line(error)})") from error
    if made.ndim != 4 or len(made) != 1 or made.shape[1] != processor.channels:
        raise _other(processor, f"it makes {made.shape} of one image, not [1, {processor.channels}, height, width]")
    return np.asarray(made[0], np.float64)


def _other(processor: Processor, what: str) -> ModelError:
    return ModelError(
        f"{processor.model}: views cannot be what its image processor, {type(processor.built).__name__}, shows the model: "
        f"{what}. Save a processor there that resizes, cuts and normalises, such as ViTImageProcessor."
    )
