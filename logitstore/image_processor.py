"""What a model's image processor does to an image, as the views of a cache say it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from transformers.image_processing_base import ImageProcessingMixin

from logitstore.errors import ModelError, one_line
from logitstore.types import ModelRef
from logitstore.view_info import TransformInfo, ViewInfo, parse_transforms
from logitstore.views.versions import versions

if TYPE_CHECKING:
    from logitstore.plans import ViewChoices

_RESAMPLING = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as image processors keep them."""


def load_processor(model: ModelRef) -> dict[str, Any]:
    """What the image processor saved with a model says."""
    try:
        found: dict[str, Any] = ImageProcessingMixin.get_image_processor_dict(model.name)[0]
    except Exception as error:
        # from OSError to the hub's own errors; the reason is kept, the traceback chained
        raise ModelError(
            f"{model}: no image processor is saved with it ({one_line(error)}). Save one there, such as "
            "ViTImageProcessor(size=...).save_pretrained(folder)."
        ) from error
    return found


def view_info(plan: ViewChoices, processor: dict[str, Any], teacher: str) -> ViewInfo:
    """What is done to an image: what the plan says, and for the rest what the teacher's image processor does.

    Args:
        plan: size, transforms and seed.
        processor: what it says.
        teacher: what to call its model in messages.

    Raises:
        ModelError: a processor that does something else than resize, crop and normalise, or says what cannot be.
        BadInput: transforms that cannot be used.
    """
    try:
        return _view_info(plan, processor, teacher)
    except (AttributeError, TypeError, ValueError) as error:
        reason = one_line(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}"
        raise ModelError(
            f"{teacher}: no views can be made as its image processor says: {reason}. Mend its preprocessor_config.json."
        ) from error


def _view_info(plan: ViewChoices, processor: dict[str, Any], teacher: str) -> ViewInfo:
    if not processor.get("do_rescale", True) or abs(float(processor.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        raise ModelError(f"{teacher}: its image processor does not scale levels to [0, 1], which views are made of.")
    size, framing = _framing(processor, teacher)
    if plan.image_size is not None:
        size = (plan.image_size, plan.image_size)
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
    transforms = parse_transforms(plan.augment or "", framing)
    return ViewInfo(
        size=size,
        transforms=transforms,
        interpolation="bicubic" if number == 3 else "bilinear",
        mean=tuple(processor["image_mean"]) if is_normalised else (0.0,) * 3,
        std=tuple(processor["image_std"]) if is_normalised else (1.0,) * 3,
        seed=plan.seed,
        versions=versions(transforms),
    )


def _framing(processor: dict[str, Any], teacher: str) -> tuple[tuple[int, int], TransformInfo]:
    """Size of what the teacher is shown, and the part of the image that is."""
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
    """Edge of what a model is shown, where that is square.

    Args:
        processor: what its image processor says.
        model: what to call it in messages.

    Raises:
        ModelError: a processor that names no size.
    """
    (height, width), _ = _framing(processor, model)
    return height if height == width else None


def resized(processor: dict[str, Any], model: str, edge: int) -> dict[str, Any]:
    """What an image processor says, with the same framing for a square of another size; see `edge_of`."""
    (height, _), _ = _framing(processor, model)
    changed = {}
    for name in ("size", "crop_size"):
        sides = _sides(processor.get(name))
        if sides is not None:
            # a centre that is cut out of a larger picture stays the same share of it
            side, said = round(edge * sides[0] / height), processor[name]
            changed[name] = dict.fromkeys(said, side) if isinstance(said, dict) else side
    return processor | changed


def _sides(said: Any) -> tuple[int, int] | None:
    """Height and width from the ways in which processors say a size."""
    if isinstance(said, int):
        return said, said
    if isinstance(said, dict) and "shortest_edge" in said:
        return int(said["shortest_edge"]), int(said["shortest_edge"])
    if isinstance(said, dict) and {"height", "width"} <= said.keys():
        return int(said["height"]), int(said["width"])
    return None
