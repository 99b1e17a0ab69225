"""Describe what an image processor does to an image, in the terms of a cache's views.

Most processors resize, cut out the middle, and normalise, as their settings say. The table at the end names the classes that
do more or other things. Nothing else decides that a description is right: `logitstore.image.processors.proof` compares it with
what the processor does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from logitstore.errors import ModelError, one_line
from logitstore.format.views import Channels, Interpolation, TransformInfo

Settings = dict[str, Any]
"""Settings of an image processor, those at their defaults included."""

_FILTERS: tuple[Interpolation, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters, by the numbers with which image processors name them."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What an image processor does.

    Attributes:
        size: height and width of what it makes; None if they depend on the image.
        framing: the part of an image that it shows; None if `size` is None.
        interpolation: its filter.
        mean, std: of the channels, so that it gives (levels / 255 - mean) / std.
        channels: the channels that it gives.
    """

    size: tuple[int, int] | None
    framing: TransformInfo | None
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Channels = "rgb"


def described(settings: Settings, model: str, channels: int = 3) -> Described:
    """Return what an image processor does, as its class and its settings say.

    Args:
        settings: its settings; see `logitstore.image.processors.saved`.
        model: name of its model in messages.
        channels: count of the channels that the model takes, 1 or 3.

    Raises:
        ModelError: the settings are not complete, or say what cannot be done.
    """
    try:
        found = _KINDS.get(kind_of(settings), _usual)(settings, model)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelError(
            f"{model}: no views can be made as its image processor says: {reason_of(error)}. "
            "Mend its preprocessor_config.json."
        ) from error
    if channels == 1:
        return replace(found, mean=found.mean[:1] * 3, std=found.std[:1] * 3, channels="luma")
    return found


def reason_of(error: Exception) -> str:
    """Return what is wrong with some settings, in one line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
    return one_line(error)


def kind_of(settings: Settings) -> str:
    """Return the class of an image processor, without the ending that says what computes it."""
    return str(settings.get("image_processor_type", "")).removesuffix("Pil").removesuffix("Fast")


def edge_of(settings: Settings, model: str) -> int | None:
    """Return the edge of the images that a model is shown; None where they are not square, or of no fixed size."""
    size = described(settings, model).size
    return size[0] if size is not None and size[0] == size[1] else None


def resized(settings: Settings, model: str, edge: int) -> Settings:
    """Return the settings that change for the same framing to a square of another size; see `edge_of`."""
    found = described(settings, model).size
    changed: Settings = {}
    for name in ("size", "crop_size"):
        sides = _sides(settings.get(name))
        if sides is not None:
            # a centre that is cut out of a larger picture keeps its share of that picture
            height = found[0] if found is not None else sides[0]
            side, old = round(edge * sides[0] / height), settings[name]
            changed[name] = {key: side for key, each in old.items() if each} if isinstance(old, dict) else side
    return changed


def _usual(settings: Settings, model: str) -> Described:
    size, framing = _framing(settings, model)
    return _finished(settings, model, size, framing)


def _framing(
    settings: Settings, model: str, widened: Callable[[int], int] = lambda edge: edge
) -> tuple[tuple[int, int] | None, TransformInfo | None]:
    """Return size and framing of a processor that resizes, then cuts out the middle.

    Args:
        settings, model: see `described`.
        widened: gives the length that the shorter side is resized to, from the one in the settings.
    """
    crop = _sides(settings.get("crop_size")) if settings.get("do_center_crop") else None
    if not settings.get("do_resize", True):
        return (None, None) if crop is None else (crop, TransformInfo.of("native"))
    said = settings.get("size")
    sides = _sides(said)
    if sides is None or (isinstance(said, dict) and not {"shortest_edge", "height"} & said.keys()):
        raise ModelError(
            f"{model}: its image processor names no size that views can have. Mend its preprocessor_config.json."
        )
    if isinstance(said, dict) and said.get("shortest_edge"):
        if crop is None:
            return None, None
        longest = int(said.get("longest_edge") or 0)
        return crop, TransformInfo.of("shortest", edge=widened(sides[0]), longest=longest)
    return crop or sides, TransformInfo.of("squash", height=sides[0], width=sides[1])


def _finished(
    settings: Settings,
    model: str,
    size: tuple[int, int] | None,
    framing: TransformInfo | None,
    channels: Channels = "rgb",
    offset: float = 0.0,
) -> Described:
    """Return a description with the numbers: levels times the factor, less `offset`, then normalised."""
    normalises = bool(settings.get("do_normalize", True))
    for name in ("resample", *(("image_mean", "image_std") if normalises else ())):
        if settings.get(name) is None:
            # each class has a default of its own, which an old file may leave out
            raise ModelError(
                f"{model}: its image processor names no {name}. Save it anew: "
                "AutoImageProcessor.from_pretrained(folder).save_pretrained(folder)."
            )
    number = int(settings["resample"])
    if not 0 <= number < len(_FILTERS):
        raise ModelError(f"{model}: its image processor resizes in Pillow's way {number}; known are 0 to 5.")
    factor = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    mean, std = (
        (_numbers(settings["image_mean"]), _numbers(settings["image_std"])) if normalises else ((0.0,) * 3, (1.0,) * 3)
    )
    if abs(factor * 255 - 1) > 1e-6 or offset:
        mean = tuple((each + offset) / (255 * factor) for each in mean)
        std = tuple(each / (255 * factor) for each in std)
    return Described(size=size, framing=framing, interpolation=_FILTERS[number], mean=mean, std=std, channels=channels)


def _numbers(value: Any) -> tuple[float, ...]:
    return (float(value),) * 3 if isinstance(value, int | float) else tuple(value)


def _sides(value: Any) -> tuple[int, int] | None:
    """Return height and width from any of the forms in which processors give a size."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict):
        if value.get("shortest_edge"):
            return int(value["shortest_edge"]), int(value["shortest_edge"])
        if {"height", "width"} <= value.keys():
            return int(value["height"]), int(value["width"])
    return None


def _convnext(settings: Settings, model: str) -> Described:
    """Below 384: resized to edge / crop_pct, and cut; from 384 on: squashed."""
    if not settings.get("do_resize", True):
        return _usual(settings, model)
    edge = int(settings["size"]["shortest_edge"])
    framing = TransformInfo.of("squash", height=edge, width=edge)
    if edge < 384:
        framing = TransformInfo.of("shortest", edge=int(edge / float(settings.get("crop_pct") or 224 / 256)))
    crop = _sides(settings.get("crop_size")) if settings.get("do_center_crop") else None
    return _finished(settings, model, crop or (edge, edge), framing)


def _levit(settings: Settings, model: str) -> Described:
    """Resized to 256 / 224 of the edge."""
    return _finished(settings, model, *_framing(settings, model, lambda edge: int((256 / 224) * edge)))


def _poolformer(settings: Settings, model: str) -> Described:
    """Resized to the edge / crop_pct, squashed only to what is no square."""
    share, sides = settings.get("crop_pct"), _sides(settings.get("size"))
    crop = _sides(settings.get("crop_size")) if settings.get("do_center_crop") else None
    if share is None or sides is None or crop is None or not settings.get("do_resize", True):
        return _usual(settings, model)
    height, width = (int(side / share) for side in sides)
    framing = (
        TransformInfo.of("shortest", edge=height)
        if sides[0] == sides[1]
        else TransformInfo.of("squash", height=height, width=width)
    )
    return _finished(settings, model, crop, framing)


def _perceiver(settings: Settings, model: str) -> Described:
    """Cut first, and then resized."""
    sides, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    if sides is None or crop is None or not (settings.get("do_center_crop") and settings.get("do_resize", True)):
        return _usual(settings, model)
    return _finished(settings, model, sides, TransformInfo.of("middle", share=sides[0] / crop[0]))


def _mobilevit(settings: Settings, model: str) -> Described:
    """Never normalised; the channels are reversed."""
    channels: Channels = "bgr" if settings.get("do_flip_channel_order", True) else "rgb"
    return _finished(settings | {"do_normalize": False}, model, *_framing(settings, model), channels)


def _efficientnet(settings: Settings, model: str) -> Described:
    """Perhaps less one after the factor; perhaps divided by the deviation once more."""
    offset = 1.0 if settings.get("rescale_offset") and settings.get("do_rescale", True) else 0.0
    found = _finished(settings, model, *_framing(settings, model), offset=offset)
    if not settings.get("include_top", True):
        return found
    return replace(
        found, std=tuple(std * more for std, more in zip(found.std, _numbers(settings["image_std"]), strict=True))
    )


def _pp_lcnet(settings: Settings, model: str) -> Described:
    """Resized by the shorter side; the channels are reversed at the end."""
    size, framing = _framing(settings | {"size": {"shortest_edge": settings["resize_short"]}}, model)
    found = _finished(settings, model, size, framing, "bgr")
    return replace(found, mean=found.mean[::-1], std=found.std[::-1])


_KINDS: dict[str, Callable[[Settings, str], Described]] = {
    "ConvNextImageProcessor": _convnext,
    "EfficientNetImageProcessor": _efficientnet,
    "LevitImageProcessor": _levit,
    "MobileViTImageProcessor": _mobilevit,
    "PPLCNetImageProcessor": _pp_lcnet,
    "PerceiverImageProcessor": _perceiver,
    "PoolFormerImageProcessor": _poolformer,
}
"""The classes that do not only resize, cut and normalise as their settings say; by `kind_of`."""
