"""Boxes, crops and flips are those of the specification."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from logitstore.core.types import Array
from logitstore.image.views.boxes import Box
from logitstore.image.views.framing.boxed import Center, Crop, framed
from logitstore.image.views.levels import picture_of, rounded, unit
from logitstore.image.views.randaugment import OPERATIONS
from logitstore.image.views.replay import replay
from logitstore.image.views.uniforms import Uniforms
from tests.parts.view_formulas import philox, planar, to_levels
from tests.parts.views import FULL, info_of, picture


def weights_of(start: int, stop: int, size: int, support: float, kernel: Callable[[Array], Array]) -> Array:
    """float64[size, stop - start]: an antialiased resizing along one axis, as docs/format.md says."""
    scale = (stop - start) / size
    stretch = max(scale, 1)
    rows = np.zeros((size, stop - start))
    for index in range(size):
        middle = (index + 0.5) * scale
        first = max(math.floor(middle - support * stretch + 0.5), 0)
        last = min(math.floor(middle + support * stretch + 0.5), stop - start)
        weight = kernel((np.arange(first, last) + 0.5 - middle) / stretch)
        rows[index, first:last] = weight / weight.sum()
    return rows


def triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0)


def cubic(x: Array, a: float = -0.5) -> Array:
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0))


@pytest.mark.parametrize("box", [Box(top=5, left=2, bottom=60, right=81), Box(top=7, left=9, bottom=16, right=20)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_box_is_resized_as_the_specification_says(box: Box, interpolation: Any) -> None:
    kernel: tuple[float, Any] = {"bilinear": (1.0, triangle), "bicubic": (2.0, cubic)}[interpolation]
    down, across = weights_of(box.top, box.bottom, 24, *kernel), weights_of(box.left, box.right, 31, *kernel)
    seen_HW3 = picture()[box.rows, box.columns].astype(np.float64)
    expected_3HW = to_levels(np.einsum("ah,hwc,bw->cab", down, seen_HW3, across))
    np.testing.assert_array_equal(framed(picture(), box, (24, 31), interpolation), expected_3HW)


def test_exact_halves_are_rounded_up_whoever_adds() -> None:
    noise = 2e-13 * (torch.rand(256, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5)
    halves = torch.arange(256)[:, None] + 0.5 + noise
    assert torch.equal(rounded(halves), (torch.arange(256)[:, None] + 1).clamp(max=255).byte().expand(256, 9))


def test_crops_lie_inside_and_have_the_shares_and_shapes_that_were_asked_for() -> None:
    height, width, scale, ratio = 300, 400, (0.2, 0.7), (0.5, 1.5)
    boxes = [Crop(scale=scale, ratio=ratio)(height, width, 1.0, Uniforms(key, 0)) for key in range(2000)]
    assert all(0 <= box.top < box.bottom <= height and 0 <= box.left < box.right <= width for box in boxes)
    share = np.array([box.height * box.width / (height * width) for box in boxes])
    shape = np.array([box.width / box.height for box in boxes])
    assert scale[0] - 0.01 < share.min() < 0.22 < 0.65 < share.max() < scale[1] + 0.01
    assert ratio[0] - 0.01 < shape.min() < 0.55 < 1.4 < shape.max() < ratio[1] + 0.01
    # those that fit whatever their shape are uniform
    small = share[share < 0.4]
    assert abs(small.mean() - 0.3) < 0.01
    tops = np.array([box.top / max(height - box.height, 1) for box in boxes])
    lefts = np.array([box.left / max(width - box.width, 1) for box in boxes])
    assert abs(tops.mean() - 0.5) < 0.04
    assert abs(lefts.mean() - 0.5) < 0.04


def test_a_crop_is_that_of_the_specification() -> None:
    info = info_of("crop:scale=0.3-0.9:ratio=0.8-1.2")
    for image in range(5):
        numbers = philox(info.seed, image, 2, 0)
        while True:
            area = (0.3 + (0.9 - 0.3) * next(numbers)) * 61 * 83
            ratio = math.exp(math.log(0.8) + (math.log(1.2) - math.log(0.8)) * next(numbers))
            tall, wide = math.floor(math.sqrt(area / ratio) + 0.5), math.floor(math.sqrt(area * ratio) + 0.5)
            if tall <= 61 and wide <= 83:
                break
        top, left = math.floor((61 - tall + 1) * next(numbers)), math.floor((83 - wide + 1) * next(numbers))
        box = Box(top=top, left=left, bottom=top + tall, right=left + wide)
        expected = framed(picture(image), box, (32, 32), "bilinear")
        assert torch.equal(replay(picture(image), info, image, 2), expected)


@pytest.mark.parametrize(
    ("height", "width", "aspect", "share", "expected"),
    [
        (375, 500, 1.0, 0.875, (23, 86, 351, 414)),
        (375, 500, 1.0, 1.0, (0, 62, 375, 437)),
        (100, 50, 2.0, 1.0, (37, 0, 62, 50)),
        (100, 400, 2.0, 0.5, (25, 150, 75, 250)),
        (1, 1, 1.0, 0.01, (0, 0, 1, 1)),
        (1, 1000, 1.0, 0.875, (0, 499, 1, 500)),
    ],
)
def test_the_centre_is_the_largest_box_of_its_shape(
    height: int, width: int, aspect: float, share: float, expected: tuple[int, int, int, int]
) -> None:
    assert dataclasses.astuple(Center(share=share)(height, width, aspect, Uniforms(0, 0))) == expected


def test_a_whole_picture_of_the_right_size_stays_as_it_is() -> None:
    assert torch.equal(replay(picture(), info_of("whole", size=(61, 83)), 0, 0), planar(picture()))


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 2), (3, 5000), (5000, 2)])
@pytest.mark.parametrize("size", [(32, 32), (1, 1), (2, 9)])
def test_pictures_of_any_shape_have_views(shape: tuple[int, int], size: tuple[int, int]) -> None:
    everything = FULL.replace("p=0.8", "p=1").replace("p=0.5", "p=1").replace("randaugment", "randaugment:n=14")
    for framing in ("crop", "whole", "center"):
        info = info_of(everything.replace("crop", framing), size=size)
        for view in range(2):
            made = replay(picture(0, *shape), info, 0, view)
            assert (made.shape, made.dtype) == ((3, *size), torch.uint8)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_a_picture_of_one_colour_keeps_it_whatever_moves(level: int) -> None:
    plain = np.full((40, 30, 3), level, np.uint8)
    for interpolation in ("bilinear", "bicubic"):
        for text in ("whole", "center", "crop", "crop,flip,grayscale:p=1"):
            assert (replay(plain, info_of(text, interpolation=interpolation), 0, 0) == level).all()
    for name in ("autocontrast", "equalize", "sharpness", "identity", "contrast", "color"):
        assert torch.equal(picture_of(OPERATIONS[name](unit(planar(plain)), 0.9)), planar(plain)), name


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_what_is_no_picture_is_refused(wrong: Array) -> None:
    with pytest.raises(ValueError, match=r"a picture is uint8\[H, W, 3\], not "):
        replay(wrong, info_of("whole"), 0, 0)


def test_an_empty_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not uint8\[0, 4, 3\]"):
        replay(np.zeros((0, 4, 3), np.uint8), info_of("whole"), 0, 0)


def test_a_flip_is_an_exact_reversal_and_happens_as_often_as_it_shall() -> None:
    plain, flipped = (replay(picture(), info_of(text), 0, 0) for text in ("whole", "whole,flip:p=1"))
    assert torch.equal(flipped, plain.flip(-1))
    views = [replay(picture(), info_of("whole,flip:p=0.3"), 0, view) for view in range(300)]
    share = np.mean([torch.equal(view, flipped) for view in views])
    assert all(torch.equal(view, flipped) or torch.equal(view, plain) for view in views)
    assert abs(share - 0.3) < 0.1
