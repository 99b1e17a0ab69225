"""A view that nothing changes is the picture of the teacher's own image processor, or the processor is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

from logitstore.core.types import Array
from logitstore.errors import BadInput, LogitstoreError
from logitstore.format.views import ViewInfo
from logitstore.image.processors.chosen import recorded, view_info
from logitstore.image.processors.saved import Processor
from logitstore.image.views.finish import finish
from logitstore.image.views.replay import replay
from logitstore.settings.image import ViewChoices

FEW = [
    "Beit",
    "Bit",
    "Blip",
    "CLIP",
    "ConvNext",
    "DeiT",
    "EfficientNet",
    "Flava",
    "Levit",
    "MobileNetV1",
    "MobileViT",
    "Perceiver",
    "PoolFormer",
    "Pvt",
    "Siglip",
    "ViT",
]
"""Classes whose pictures views have; by their names without ImageProcessorPil."""

REFUSED = ["Donut", "Nougat", "Owlv2", "BridgeTower", "VideoMAE", "ImageGPT", "TextNet", "Detr"]


def processor_of(name: str, **changes: Any) -> Processor:
    kind = getattr(transformers, name if "ImageProcessor" in name else f"{name}ImageProcessorPil")
    built = kind(**changes)
    return Processor(model="it", said=built.to_dict(), built=built)


def noise(height: int, width: int) -> Array:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def largest_difference(processor: Processor, info: ViewInfo, shapes: list[tuple[int, int]]) -> float:
    """In levels of 255, over some pictures of noise."""
    most = 0.0
    for shape in shapes:
        picture_HW3 = noise(*shape)
        expected = processor.built(images=Image.fromarray(picture_HW3), return_tensors="np")["pixel_values"][0]
        found = finish(replay(picture_HW3, info, 0, 0)[None], info)[0].numpy()
        most = max(most, float((np.abs(found - expected) * 255 * np.array(info.std)[:, None, None]).max()))
    return most


@pytest.mark.parametrize("name", FEW)
def test_a_view_is_the_processors_own_picture(name: str) -> None:
    processor = processor_of(name)
    assert largest_difference(processor, view_info(ViewChoices(), processor), [(61, 200), (300, 45)]) < 0.01


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("DeiT", {"resample": 0}),
        ("DeiT", {"resample": 1}),
        ("DeiT", {"resample": 4}),
        ("DeiT", {"resample": 5}),
        ("DeiT", {"do_center_crop": False}),
        ("DeiT", {"crop_size": {"height": 301, "width": 270}}),
        ("Beit", {"do_center_crop": True}),
        ("Beit", {"size": {"height": 30, "width": 50}}),
        ("ConvNext", {"size": {"shortest_edge": 224}, "crop_pct": 0.95}),
        ("ConvNext", {"size": {"shortest_edge": 32}}),
        ("MobileViT", {"do_flip_channel_order": False}),
        ("EfficientNet", {"rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("EfficientNet", {"include_top": False, "do_center_crop": True, "resample": 0}),
        ("CLIP", {"size": {"shortest_edge": 60, "longest_edge": 90}, "crop_size": 64}),
        ("CLIP", {"do_resize": False, "crop_size": 64}),
        ("CLIP", {"do_rescale": False}),
        ("CLIP", {"do_normalize": False}),
        ("ViT", {"image_mean": 0.5, "image_std": 0.25, "size": 20}),
        ("PoolFormer", {"size": {"height": 40, "width": 60}, "crop_size": {"height": 30, "width": 50}}),
        ("Perceiver", {"do_center_crop": False}),
    ],
    ids=str,
)
def test_settings_that_change_the_picture_change_the_view(name: str, changes: dict[str, Any]) -> None:
    processor = processor_of(name, **changes)
    assert largest_difference(processor, view_info(ViewChoices(), processor), [(61, 200), (90, 45)]) < 0.01


@pytest.mark.parametrize("name", REFUSED)
def test_a_processor_of_another_kind_is_refused_by_name(name: str) -> None:
    with pytest.raises(LogitstoreError, match=f"{name}ImageProcessorPil"):
        view_info(ViewChoices(), processor_of(name))


def test_a_processor_without_a_size_is_followed_where_the_settings_give_one() -> None:
    processor = processor_of("Detr")
    with pytest.raises(BadInput, match="--augment center:share=1 --image-size 224"):
        view_info(ViewChoices(), processor)
    info = view_info(ViewChoices(augment="center:share=1", image_size=24), processor)
    assert (info.size, info.spelled) == ((24, 24), "center:share=1")


@pytest.mark.parametrize("name", ["ViT", "DeiT", "Levit", "EfficientNet"])
def test_a_processor_that_neither_resizes_nor_cuts_has_no_size(name: str) -> None:
    with pytest.raises(BadInput, match="has no fixed size"):
        view_info(ViewChoices(), processor_of(name, do_resize=False, do_center_crop=False))


@pytest.mark.parametrize("name", ["ViT", "CLIP", "ConvNext", "Levit"])
def test_a_view_of_another_size_is_that_of_the_processor_at_that_size(name: str) -> None:
    processor = processor_of(name).at(40)
    info = view_info(ViewChoices(image_size=40), processor_of(name))
    assert info.size == (40, 40)
    assert largest_difference(processor, info, [(61, 200), (90, 45)]) < 0.01


def test_a_dump_goes_on_with_the_views_that_an_older_version_recorded() -> None:
    processor = processor_of("DeiT")
    now = view_info(ViewChoices(augment="flip"), processor)
    before = now.model_dump() | {"transforms": ({"name": "center", "arguments": {"share": 1.0}}, *now.transforms[1:])}
    squared = processor.said | {"size": {"shortest_edge": 224}}
    older = Processor(model="it", said=squared, built=processor.built)
    assert recorded(now, ViewInfo.model_validate(before), older).spelled == "center:share=1,flip"
    assert recorded(now, None, older) is now
    other = ViewInfo.model_validate(before | {"seed": 3})
    assert recorded(now, other, older) is now


def test_a_very_long_picture_is_not_made_whole() -> None:
    processor = processor_of("CLIP")
    info = view_info(ViewChoices(), processor)
    assert replay(noise(1, 5000), info, 0, 0).shape == (3, 224, 224)


@pytest.mark.exhaustive
def test_every_processor_is_followed_or_refused() -> None:
    names = {kinds["pil"] for kinds in IMAGE_PROCESSOR_MAPPING_NAMES.values() if kinds.get("pil")}
    followed, refused = [], []
    for name in sorted(names):
        try:
            processor = processor_of(name)
            info = view_info(ViewChoices(), processor)
        except (LogitstoreError, ImportError, TypeError, AttributeError) as error:
            refused.append((name, type(error).__name__))
            continue
        assert largest_difference(processor, info, [(61, 200), (300, 45), (40, 40), (500, 333)]) < 0.01, name
        followed.append(name)
    print(
        len(followed),
        "followed",
        len(refused),
        "refused",
        [each for each in refused if each[1] not in ("ModelError", "BadInput")],
    )
    assert len(followed) >= 30
