"""The list of transforms of a cache: parsed, refused, and read from a manifest."""

from __future__ import annotations

import dataclasses
import functools
import json
import re

import pytest

from logitstore.errors import BadInput
from logitstore.format.views import OPTIONS, TransformInfo, ViewInfo, parse_transforms
from logitstore.image.views import TRANSFORMS
from tests.parts.views import FULL, info_of


def test_the_table_has_every_transform_with_its_options() -> None:
    assert set(TRANSFORMS) == set(OPTIONS)
    for name, options in OPTIONS.items():
        assert [field.name for field in dataclasses.fields(TRANSFORMS[name])] == list(options)


def test_transforms_are_parsed_with_every_default() -> None:
    text = " crop:scale=0.2-1 , flip,jitter:hue=0:p=.8,randaugment:n=3:m=7.5,erase,mixup:alpha=2e-1,cutmix:p=1"
    assert parse_transforms(text) == (
        TransformInfo(name="crop", arguments={"scale": (0.2, 1.0), "ratio": (3 / 4, 4 / 3)}),
        TransformInfo(name="flip", arguments={"p": 0.5}),
        TransformInfo(
            name="jitter", arguments={"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.0, "p": 0.8}
        ),
        TransformInfo(name="randaugment", arguments={"n": 3, "m": 7.5}),
        TransformInfo(name="erase", arguments={"p": 0.25, "scale": (0.02, 0.33), "ratio": (0.3, 3.3)}),
        TransformInfo(name="mixup", arguments={"alpha": 0.2, "p": 1.0}),
        TransformInfo(name="cutmix", arguments={"alpha": 1.0, "p": 1.0}),
    )


def test_a_framing_is_put_first_where_none_is_named() -> None:
    center = TransformInfo.of("center", share=0.9)
    assert parse_transforms("flip", center) == (center, TransformInfo.of("flip"))
    assert parse_transforms("", center) == (center,)
    assert parse_transforms("crop,flip", center)[0] == TransformInfo.of("crop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "squash, native, but there is none. Put one of them first.",
        ),
        (
            "flip",
            "middle, shortest, squash, native, but the first is 'flip'. Put one",
        ),
        ("flip,crop", "the first is 'flip'. Put one of them first."),
        ("crop,center", "a picture is framed once, but both 'crop' and 'center' are named. Leave one out."),
        ("crop,flip,flip", "the transform 'flip' is named twice. Name it once."),
        ("crop,mixup,flip", "'flip' comes after 'mixup', but mixup and cutmix mix finished views. Put 'flip' before."),
        ("crop,,flip", "a name is missing between two commas or at an end. Leave out the comma, or name a transform."),
        ("crop,flip,", "a name is missing between two commas"),
        ("crp", "no transform named 'crp'. Did you mean 'crop'? Known: center, crop, cutmix, erase, flip, grayscale,"),
        ("crop,flip:q=1", "flip has no option 'q'. Known: p."),
        ("crop:scal=0.1-1", "crop has no option 'scal'. Did you mean 'scale'? Known: ratio, scale."),
        ("crop:", "crop has no option ''. Known: ratio, scale."),
        ("whole:share=1", "whole takes no options, so not 'share'. Write only whole."),
        ("crop:scale=0.1-1:scale=0.1-1", "crop:scale is given twice. Give it once."),
        ("crop:scale", "crop:scale: must be a range within 0.001 to 1, the lower end first, such as 0.08-1."),
        ("crop:scale=0.5", "crop:scale=0.5: must be a range within 0.001 to 1"),
        ("crop:scale=0.5-2", "crop:scale=0.5-2: must be a range within 0.001 to 1"),
        ("crop:scale=0.5-0.2", "crop:scale=0.5-0.2: must be a range within 0.001 to 1, the lower end first"),
        ("crop:ratio=a-b", "crop:ratio=a-b: must be a range within 0.01 to 100, the lower end first"),
        ("center:share=0", "center:share=0: must be a number from 0.01 to 1, such as 0.875."),
        ("whole,flip:p=often", "flip:p=often: must be a number from 0 to 1, such as 0.5."),
        ("whole,flip:p=-1", "flip:p=-1: must be a number from 0 to 1, such as 0.5."),
        ("whole,flip:p=nan", "flip:p=nan: must be a number from 0 to 1, such as 0.5."),
        ("whole,flip:p=1e999", "flip:p=1e999: must be a number from 0 to 1, such as 0.5."),
        ("whole,randaugment:n=1.5", "randaugment:n=1.5: must be a whole number from 1 to 14, such as 2."),
        ("whole,randaugment:n=٣", "randaugment:n=٣: must be a whole number from 1 to 14, such as 2."),
        ("whole,randaugment:m=11", "randaugment:m=11: must be a number from 0 to 10, such as 9."),
        ("whole,jitter:hue=0.6", "jitter:hue=0.6: must be a number from 0 to 0.5, such as 0.1."),
        ("whole,mixup:alpha=0", "mixup:alpha=0: must be a number from 0.01 to 4, such as 0.8."),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        parse_transforms(text)
    told = str(caught.value)
    assert told.startswith(f"transforms '{text}': ")
    assert told.endswith(".")
    assert "\n" not in told


def test_a_manifest_gives_back_what_was_written() -> None:
    info = info_of(FULL)
    assert ViewInfo.model_validate_json(info.model_dump_json()) == info
    assert ViewInfo.model_validate(json.loads(info.model_dump_json())) == info


def hostile(place: str, value: object) -> str:
    """The JSON of views with one value replaced."""
    content = json.loads(info_of(FULL).model_dump_json())
    *path, last = place.split("/")
    target = functools.reduce(lambda found, step: found[int(step) if step.isdigit() else step], path, content)
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("size", [0, 32]),
        ("size", [32]),
        ("size", [10**9, 10**9]),
        ("size", [32.5, 32]),
        ("transforms", []),
        ("transforms", [{"name": "flip", "arguments": {"p": 0.5}}]),
        ("transforms", "crop,flip"),
        ("transforms/0/name", "crops"),
        ("transforms/0/name", "os.system"),
        ("transforms/0/name", "flip"),
        ("transforms/0/name", None),
        ("transforms/0/arguments", {}),
        ("transforms/0/arguments/more", 1),
        ("transforms/0/arguments/scale", [1, 0.5]),
        ("transforms/0/arguments/scale", [0.5, float("nan")]),
        ("transforms/0/arguments/scale", [0.1, 0.2, 0.3]),
        ("transforms/0/arguments/scale", 0.5),
        ("transforms/0/arguments/ratio", [1, float("inf")]),
        ("transforms/1/arguments/p", [0.1, 0.2]),
        ("transforms/1/arguments/p", "0.5"),
        ("transforms/1/arguments/p", True),
        ("transforms/1/arguments/p", None),
        ("transforms/1/arguments/p", 10**400),
        ("transforms/1/arguments/p", float("nan")),
        ("transforms/1/name", "crop"),
        ("transforms/1/extra", 1),
        ("transforms/4/arguments/n", 2.0),
        ("transforms/4/arguments/n", 10**9),
        ("transforms/6/arguments/alpha", 1e-300),
        ("interpolation", "cubic"),
        ("mean", [0, 0]),
        ("mean", [0, 0, float("nan")]),
        ("std", [0, 1, 1]),
        ("std", [1e-300, 1, 1]),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 1.5),
        ("versions", {}),
        ("versions", {"torch": "2.13.0", "pillow": "13.0.0"}),
        ("versions", {"torch": "2.13.0", "pillow": "13.0.0", "kornia": "0.9.0", "evil": "1"}),
        ("versions/torch", "1; rm -rf /"),
        ("versions/torch", "9" * 100),
        ("more", 1),
    ],
)
def test_a_manifest_with_a_value_that_cannot_be_is_refused(place: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"validation error|not the same|must be"):
        ViewInfo.model_validate_json(hostile(place, value))
