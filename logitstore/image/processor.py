"""Describe what a model's image processor does to an image, in the terms of a cache's views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from transformers.image_processing_base import ImageProcessingMixin

from logitstore.core.types import ModelRef
from logitstore.errors import ModelError, one_line
from logitstore.format.views import TransformInfo, ViewInfo, parse_transforms
from logitstore.image.views.proof import versions

if TYPE_CHECKING:
    from logitstore.settings.image import ViewChoices


_RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as image processors keep them."""


def load_processor(model: ModelRef) -> dict[str, Any]:
    """Return the settings of the image processor that is saved with a model."""
    try:
        settings: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(model.name)[0]
    except Exception as error:
        # any error, from OSError to the hub's own: keep the reason, chain the traceback
        raise ModelError(
            f"{model}: no image processor is saved with it ({one_line(error)}). Save one there, such as "
            "ViTImageProcessor(size=...).save_pretrained(folder)."
        ) from error
    return settings


def view_info(settings: ViewChoices, processor: dict[str, Any], teacher: str) -> ViewInfo:
    """Return how views are made: as the plan says, and for the rest as the teacher's image processor does.

    Args:
        settings: gives size, transforms and seed.
        processor: settings of the teacher's image processor.
        teacher: name of the teacher in messages.

    Raises:
        ModelError: the processor does something else than resize, crop and normalise, or has impossible settings.
        BadInput: the transforms cannot be used.
    """
    try:
        return _view_info(settings, processor, teacher)
    except (AttributeError, TypeError, ValueError) as error:
        reason = one_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        raise ModelError(
            f"{teacher}: no views can be made as its image processor says: {reason}. Mend its preprocessor_config.json."
        ) from error


def _view_info(settings: ViewChoices, processor: dict[str, Any], teacher: str) -> ViewInfo:
    if not processor.get("do_rescale", True) or abs(float(processor.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        raise ModelError(f"{teacher}: its image processor does not scale levels to [0, 1], which views are made of.")
    size, framing = _framing(processor, teacher)
    if settings.image_size is not None:
        size = (settings.image_size, settings.image_size)
    is_normalised = processor.get("do_normalize", True)
    for name in ("resample", *(("image_mean", "image_std") if is_normalised else ())):
        if processor.get(name) is None:
            # each class has a default of its own, which an old file may leave out
            raise ModelError(
                f"{teacher}: its image processor names no {name}. Save it anew: "
                "AutoImageProcessor.from_pretrained(folder).save_pretrained(folder)."
            )
    number = int(processor["resample"])
    if number not in _RESAMPLING:
        raise ModelError(f"{teacher}: its image processor resizes in Pillow's way {number}; known are 2 and 3.")
    transforms = parse_transforms(settings.augment or "", framing)
    return ViewInfo(
        size=size,
        transforms=transforms,
        interpolation="bicubic" if number == 3 else "bilinear",
        mean=tuple(processor["image_mean"]) if is_normalised else (0.0,) * 3,
        std=tuple(processor["image_std"]) if is_normalised else (1.0,) * 3,
        seed=settings.seed,
        versions=versions(transforms),
    )


def _framing(processor: dict[str, Any], teacher: str) -> tuple[tuple[int, int], TransformInfo]:
    """Return the size of the views that the teacher is shown, and the part of an image that they show."""
    size = _sides(processor.get("size"))
    if size is None:
        raise ModelError(f"{teacher}: its image processor names no size. Mend its preprocessor_config.json.")
    shortest = "shortest_edge" in processor["size"] if isinstance(processor.get("size"), dict) else False
    if "crop_pct" in processor and shortest and size[0] < 384:  # ConvNeXt's: resize to size / crop_pct, then crop
        return size, TransformInfo.of("center", share=float(processor["crop_pct"]))
    crop = _sides(processor.get("crop_size")) if processor.get("do_center_crop") else None
    if crop is not None:
        share = min(crop[0] / size[0], 1.0) if shortest else 1.0
        return crop, TransformInfo.of("center", share=share)
    return size, TransformInfo.of("center", share=1.0) if shortest else TransformInfo.of("whole")


def edge_of(processor: dict[str, Any], model: str) -> int | None:
    """Return the edge of the images that a model is shown; None where they are not square.

    Args:
        processor: settings of the model's image processor.
        model: name of the model in messages.

    Raises:
        ModelError: the processor names no size.
    """
    (height, width), _ = _framing(processor, model)
    return height if height == width else None


def resized(processor: dict[str, Any], model: str, edge: int) -> dict[str, Any]:
    """Return the settings of an image processor, with the same framing for a square of another size; see `edge_of`."""
    (height, _), _ = _framing(processor, model)
    changed = {}
    for name in ("size", "crop_size"):
        sides = _sides(processor.get(name))
        if sides is not None:
            # a centre that is cut out of a larger picture keeps its share of that picture
            side, old = round(edge * sides[0] / height), processor[name]
            changed[name] = dict.fromkeys(old, side) if isinstance(old, dict) else side
    return processor | changed


def _sides(value: Any) -> tuple[int, int] | None:
    """Return height and width from any of the forms in which processors give a size."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, dict) and "shortest_edge" in value:
        return int(value["shortest_edge"]), int(value["shortest_edge"])
    if isinstance(value, dict) and {"height", "width"} <= value.keys():
        return int(value["height"]), int(value["width"])
    return None
