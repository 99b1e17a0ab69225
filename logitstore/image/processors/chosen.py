"""Choose how the views of a dump are made: as the settings say, and for the rest as the teacher's image processor does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from logitstore.core.types import Array
from logitstore.errors import BadInput, ModelError
from logitstore.format.views import FRAMING, TransformInfo, ViewInfo, parse_transforms
from logitstore.image.processors.described import reason_of
from logitstore.image.processors.proof import prove, prove_numbers, prove_pictures
from logitstore.image.processors.saved import Processor
from logitstore.image.views.proof import versions

if TYPE_CHECKING:
    from logitstore.settings.image import ViewChoices


def view_info(settings: ViewChoices, processor: Processor) -> ViewInfo:
    """Return how views are made, proven to be what the processor makes of noise; see `prove_data`.

    Args:
        settings: gives size, transforms and seed.
        processor: the teacher's.

    Raises:
        ModelError: the processor does something else than resize, cut and normalise, or has impossible settings.
        BadInput: the transforms cannot be used, or the processor leaves open what they must say.
    """
    processor, named = _sized(settings, processor), _names_framing(settings)
    found = processor.described
    size = found.size if settings.image_size is None else (settings.image_size, settings.image_size)
    if size is None or not (named or found.framing):
        raise BadInput(
            f"{processor.model}: what its image processor, {type(processor.built).__name__}, makes has no fixed size. Say "
            "what is seen, and how large: --augment center:share=1 --image-size 224."
        )
    transforms = parse_transforms(settings.augment or "", found.framing)
    info = _valid(
        processor,
        {
            "size": size,
            "transforms": transforms,
            "interpolation": found.interpolation,
            "mean": found.mean,
            "std": found.std,
            "channels": found.channels,
            "seed": settings.seed,
            "versions": versions(transforms),
        },
    )
    if named:
        prove_numbers(processor, found)
    else:
        prove(processor, found)
    return info


def prove_data(settings: ViewChoices, processor: Processor, pictures: Sequence[Array]) -> None:
    """Prove that un-augmented views of some of the data are what the processor makes of them.

    Args:
        settings, processor: as for `view_info`.
        pictures: uint8[H, W, 3], some of the data.

    Raises:
        ModelError: they are not.
    """
    if not _names_framing(settings):
        processor = _sized(settings, processor)
        prove_pictures(processor, processor.described, pictures)


def _sized(settings: ViewChoices, processor: Processor) -> Processor:
    return processor if settings.image_size is None else processor.at(settings.image_size)


def _names_framing(settings: ViewChoices) -> bool:
    """Say whether the settings name what is seen of a picture, in place of the processor."""
    return any(item.split(":")[0].strip() in FRAMING for item in (settings.augment or "").split(","))


def _valid(processor: Processor, entries: dict[str, Any]) -> ViewInfo:
    try:
        return ViewInfo.model_validate(entries)
    except ValueError as error:
        raise ModelError(
            f"{processor.model}: no views can be made as its image processor says: {reason_of(error)}. "
            "Mend its preprocessor_config.json."
        ) from error


def recorded(wanted: ViewInfo, there: ViewInfo | None, processor: Processor) -> ViewInfo:
    """Return how the views of a dump that has begun are made: as its cache records, if an older version recorded that.

    Older versions framed in fewer ways, and left some settings of processors aside.

    Args:
        wanted: how they would be made now.
        there: how they are made in the cache; None without a cache.
        processor: the teacher's.
    """
    if there is None or there == wanted:
        return wanted
    said, number = processor.said, processor.said.get("resample")
    is_normalised = said.get("do_normalize", True)
    mean, std = (said.get("image_mean"), said.get("image_std")) if is_normalised else ((0.0,) * 3, (1.0,) * 3)
    before = wanted.model_dump() | {
        "interpolation": "bicubic" if number == 3 else "bilinear",
        "mean": mean,
        "std": std,
        "channels": "rgb",
    }
    if wanted.transforms[0].name in ("shortest", "squash", "native", "middle"):
        size, framing = _framed_before(said)
        before |= {"size": size, "transforms": (framing, *wanted.transforms[1:])}
    try:
        return there if there == ViewInfo.model_validate(before) else wanted
    except ValueError:
        return wanted


def _framed_before(said: dict[str, Any]) -> tuple[Any, TransformInfo]:
    """Return size and framing as older versions read them from the settings of a processor."""
    size, crop = (_square(said.get(name)) for name in ("size", "crop_size"))
    shortest = isinstance(said.get("size"), dict) and "shortest_edge" in said["size"]
    if size is not None and "crop_pct" in said and shortest and size[0] < 384:
        return size, TransformInfo.of("center", share=float(said["crop_pct"]))
    if size is not None and crop is not None and said.get("do_center_crop"):
        return crop, TransformInfo.of("center", share=min(crop[0] / size[0], 1.0) if shortest else 1.0)
    return size, TransformInfo.of("center", share=1.0) if shortest else TransformInfo.of("whole")


def _square(value: Any) -> tuple[int, int] | None:
    if isinstance(value, dict):
        height, width = (value.get(name, value.get("shortest_edge")) for name in ("height", "width"))
        return None if height is None or width is None else (int(height), int(width))
    return (value, value) if isinstance(value, int) else None
