"""Views of images: the same pixels wherever and whenever they are made, and those that docs/format.md describes.

The references here are written from that page, in float64 NumPy or with Pillow, and share no code with the library.
"""

from __future__ import annotations

import colorsys
import dataclasses
import functools
import json
import math
import os
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from logitstore.errors import BadInput, CacheMismatch
from logitstore.types import Array
from logitstore.view_info import OPTIONS, TransformInfo, ViewInfo, parse_transforms
from logitstore.views import TRANSFORMS
from logitstore.views.boxes import Box
from logitstore.views.digest import digest
from logitstore.views.finish import finish
from logitstore.views.framing import Center, Crop, framed
from logitstore.views.levels import picture_of, rounded, unit
from logitstore.views.mix import Mix, mixing
from logitstore.views.randaugment import OPERATIONS
from logitstore.views.replay import replay
from logitstore.views.uniforms import Uniforms, seed_of
from logitstore.views.versions import check_versions, versions
from tests.made_views import CASES, FULL, IMAGES, VIEWS, digests, info_of, picture

ROOT = Path(__file__).parents[1]
PINNED = {"torch": "2.13.0", "kornia": "0.9.0", "pillow": "13.0.0"}
GOLDEN = {
    "whole": [3974490481, 3974490481],
    "center": [578826812, 578826812],
    "crop": [255490795, 1995851100],
    "flip": [4032232216, 4032232216],
    "jitter": [4251823745, 2187372989],
    "grayscale": [3451829418, 3451829418],
    "randaugment": [3748191703, 1200731641],
    "erase": [1245614131, 3105115693],
    "mixup": [2337690473, 2364368925],
    "cutmix": [1247070259, 3765920339],
    "full": [2407942462, 277991917],
}
"""The digests of views 1 and 0 of image 0 in every case. They pin what the digests in stored caches mean: where one changes,
views cannot be replayed for old caches any more. They change with a new version of the format only."""


# --- the same wherever it is made


def elsewhere(**variables: str) -> dict[str, list[list[int]]]:
    """The digests that a process of its own finds, after it has used the global random numbers."""
    command = [sys.executable, "-m", "tests.made_views"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    result: dict[str, list[list[int]]] = json.loads(found.stdout)
    return result


@functools.cache
def here() -> dict[str, list[list[int]]]:
    return {case: digests(case) for case in CASES}


def test_another_process_on_another_kind_of_processor_makes_the_same_views() -> None:
    # without AVX torch adds in another order, and fuses no multiplication with an addition
    assert elsewhere(ATEN_CPU_CAPABILITY="default", OMP_NUM_THREADS="1") == here()


@pytest.mark.parametrize("case", CASES)
def test_a_view_depends_on_no_thread_count_no_global_state_and_no_order(case: str) -> None:
    info, threads = info_of(CASES[case], size=(130, 130)), torch.get_num_threads()
    asked = [(0, 0), (1, 0), (1, 1)]
    first = {each: replay(picture(each[0]), info, *each) for each in asked}
    random.seed(7)
    np.random.seed(8)
    torch.manual_seed(9)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            for image, view in random.sample(asked, len(asked)):
                random.random(), np.random.random(), torch.rand(1)
                again = replay(picture(image), info, image, view)
                assert torch.equal(again, first[image, view])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("default", [torch.float64, torch.float16])
def test_a_view_depends_on_no_default_dtype(default: torch.dtype) -> None:
    try:
        torch.set_default_dtype(default)
        assert digests("full") == here()["full"]
        assert finish(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), info_of("whole")).dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("case", GOLDEN)
def test_the_digests_of_stored_caches_keep_their_meaning(case: str) -> None:
    needed = info_of(CASES[case]).versions
    if needed != {name: PINNED[name] for name in needed}:
        pytest.skip(f"pinned for {PINNED}, but here is {needed}")
    assert here()[case][-1][-2:] == GOLDEN[case]


def test_every_view_is_another_and_so_are_those_of_another_seed_image_or_view() -> None:
    found = np.array(here()["full"]).ravel().tolist()
    assert len(set(found)) == IMAGES * VIEWS
    base = replay(picture(), info_of(FULL), 0, 0)
    others = [replay(picture(), info_of(FULL, seed=seed), image, view) for seed, image, view in OTHERS]
    assert not any(torch.equal(base, other) for other in others)
    keys = [seed_of(seed, image, view) for seed in range(8) for image in range(8) for view in range(8)]
    assert len(set(keys)) == 8**3


OTHERS = [(6, 0, 0), (5, 1, 0), (5, 0, 1)]


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (FULL.replace("crop", "crop:scale=0.08-0.99"), {}),
        (FULL.replace("flip", "flip:p=0.9"), {}),
        (FULL.replace("p=0.8", "p=0.8:hue=0.11"), {}),
        (FULL.replace("randaugment", "randaugment:m=8"), {}),
        (FULL.replace("randaugment", "randaugment:n=3"), {}),
        (FULL.replace("erase", "erase:scale=0.03-0.33"), {}),
        (FULL.replace("mixup", "mixup:alpha=0.7"), {}),
        (FULL.replace("cutmix", "cutmix:alpha=0.9"), {}),
        (FULL, {"interpolation": "bicubic"}),
        (FULL, {"size": (32, 33)}),
        (FULL, {"seed": 4}),
    ],
)
def test_a_change_of_what_is_done_is_noticed_by_the_digest(text: str, changes: dict[str, Any]) -> None:
    info = info_of(text, **changes)
    found = [
        digest(replay(picture(image), info, image, view), mixing(info, image, IMAGES, view))
        for image in reversed(range(IMAGES))
        for view in reversed(range(VIEWS))
    ]
    assert found != np.array(here()["full"]).ravel().tolist()


def test_a_digest_is_that_of_the_specification_and_sees_one_bit() -> None:
    view = replay(picture(), info_of("crop"), 0, 0)
    mix = Mix(partner=3, weight=0.75, box=(0.0, 0.25, 0.5, 0.75))
    blended = Mix(partner=3, weight=0.75, box=None)
    plain = struct.pack("<III", 3, 32, 32) + view.numpy().tobytes()
    packed = {
        None: plain,
        blended: plain + struct.pack("<qf", 3, 0.75),
        mix: plain + struct.pack("<qf4d", 3, 0.75, 0, 0.25, 0.5, 0.75),
    }
    for each, content in packed.items():
        assert digest(view, each) == digest(view.numpy(), each) == xxhash.xxh3_64_intdigest(content) % 2**32
    changed = view.clone()
    changed[2, 31, 31] ^= 1
    others = [
        digest(changed, mix),
        digest(view.reshape(3, 16, 64), mix),
        digest(view, dataclasses.replace(mix, partner=2)),
        digest(view, dataclasses.replace(mix, weight=0.5)),
        digest(view, dataclasses.replace(mix, box=(0.0, 0.25, 0.5, 0.5))),
    ]
    assert len({digest(view, each) for each in packed} | set(others)) == 8


# --- random numbers


def philox(seed: int, image: int, view: int, stream: int) -> Iterator[float]:
    """The uniform numbers of docs/format.md, from the raw outputs of the generator."""
    key = 0
    for number, salt in ((seed, b"seeds"), (image, b"image"), (view, b"views")):
        x = (key ^ number) * 0x9E3779B97F4A7C15 + int.from_bytes(salt, "big")
        x %= 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        key = x ^ x >> 31
    assert key == seed_of(seed, image, view)
    raw = np.random.Philox(key=key, counter=np.array([0, 0, 0, stream], np.uint64))
    while True:
        yield (int(raw.random_raw()) >> 11) / 2**53


def test_the_uniform_numbers_are_those_of_the_specification() -> None:
    expected = philox(2**63 - 1, 2**40, 3, 5)
    uniforms = Uniforms(seed_of(2**63 - 1, 2**40, 3), 5)
    assert [uniforms.number() for _ in range(9)] == [next(expected) for _ in range(9)]
    np.testing.assert_array_equal(uniforms.numbers((2, 3)).ravel(), [next(expected) for _ in range(6)])
    assert uniforms.between(2, 5) == 2 + 3 * next(expected)
    assert uniforms.below(7) == math.floor(7 * next(expected))
    assert uniforms.happens(0.5) == (next(expected) < 0.5)
    assert sorted(uniforms.order(6)) == list(range(6))


def test_every_order_of_three_is_as_likely() -> None:
    uniforms = Uniforms(1, 0)
    counts = np.unique([uniforms.order(3) for _ in range(3000)], axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 500).max() < 5 * math.sqrt(500)


@pytest.mark.parametrize("alpha", [0.1, 0.8, 1.0, 3.0])
def test_the_weights_of_a_mix_have_the_mean_and_the_variance_of_their_distribution(alpha: float) -> None:
    uniforms = Uniforms(2, 0)
    drawn = np.array([uniforms.beta(alpha) for _ in range(4000)])
    variance = 1 / (4 * (2 * alpha + 1))
    assert 0 <= drawn.min() <= drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 5 * math.sqrt(variance / 4000)
    assert abs(drawn.var() / variance - 1) < 0.1


# --- framing


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


def to_levels(levels: Array) -> Array:
    return np.floor(np.clip(levels + 0.5 + 2.0**-20, 0, 255)).astype(np.uint8)


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


# --- what changes a view


def planar(picture_HW3: Array) -> Tensor:
    return torch.from_numpy(picture_HW3.transpose(2, 0, 1).copy())


def test_a_flip_is_an_exact_reversal_and_happens_as_often_as_it_shall() -> None:
    plain, flipped = (replay(picture(), info_of(text), 0, 0) for text in ("whole", "whole,flip:p=1"))
    assert torch.equal(flipped, plain.flip(-1))
    views = [replay(picture(), info_of("whole,flip:p=0.3"), 0, view) for view in range(300)]
    share = np.mean([torch.equal(view, flipped) for view in views])
    assert all(torch.equal(view, flipped) or torch.equal(view, plain) for view in views)
    assert abs(share - 0.3) < 0.1


def test_greys_are_the_luma() -> None:
    plain = replay(picture(), info_of("whole"), 0, 0).numpy().astype(np.float64)
    expected = to_levels(0.299 * plain[0] + 0.587 * plain[1] + 0.114 * plain[2])
    grey = replay(picture(), info_of("whole,grayscale:p=1"), 0, 0)
    np.testing.assert_array_equal(grey, np.stack([expected] * 3))
    assert torch.equal(replay(picture(), info_of("whole,grayscale:p=0"), 0, 0).float(), torch.from_numpy(plain).float())


def jittered(unit_3HW: Array, order: list[int], amounts: list[float]) -> Array:
    """Brightness, contrast, saturation and hue in an order, each by its formula."""
    for step in order:
        luma_HW = np.tensordot([0.299, 0.587, 0.114], unit_3HW, 1)
        if step == 0:
            unit_3HW = unit_3HW * amounts[0]
        elif step == 1:
            unit_3HW = unit_3HW * amounts[1] + luma_HW.mean() * (1 - amounts[1])
        elif step == 2:
            unit_3HW = unit_3HW * amounts[2] + luma_HW * (1 - amounts[2])
        else:
            turned = [turn(*pixel, amounts[3]) for pixel in unit_3HW.reshape(3, -1).T]
            unit_3HW = np.array(turned).T.reshape(unit_3HW.shape)
        unit_3HW = np.clip(unit_3HW, 0, 1)
    return unit_3HW


def turn(red: float, green: float, blue: float, turns: float) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return colorsys.hsv_to_rgb((hue + turns) % 1, saturation, value)


def test_jitter_is_that_of_the_specification() -> None:
    info = info_of("whole,jitter:brightness=0.5:contrast=0.6:saturation=0.7:hue=0.2", size=(12, 15))
    plain = replay(picture(), info_of("whole", size=(12, 15)), 0, 0).numpy() / 255
    orders = set()
    for view in range(12):
        numbers = philox(info.seed, 0, view, 1)
        assert next(numbers) < 1
        order = list(range(4))
        for place in (3, 2, 1):
            other = math.floor((place + 1) * next(numbers))
            order[place], order[other] = order[other], order[place]
        amounts = [1 - s + ((1 + s) - (1 - s)) * next(numbers) for s in (0.5, 0.6, 0.7)]
        amounts.append(-0.2 + 0.4 * next(numbers))
        expected = to_levels(255 * jittered(plain, order, amounts))
        made = replay(picture(), info, 0, view).numpy()
        # kornia divides by the value plus 1e-8, which may move a level that lies on the edge
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert (made != expected).mean() < 0.01
        orders.add(tuple(order))
    assert len(orders) > 6
    still = info_of("whole,jitter:brightness=0:contrast=0:saturation=0:hue=0", size=(12, 15))
    np.testing.assert_array_equal(replay(picture(), still, 0, 0) / 255, plain.astype(np.float32))


def operated(name: str, strength: float) -> tuple[Array, Array]:
    """int[H, W, 3]: a picture, and what an operation makes of it."""
    made_3HW = picture_of(OPERATIONS[name](unit(planar(picture())), strength))
    return picture().astype(int), made_3HW.permute(1, 2, 0).numpy().astype(int)


@pytest.mark.parametrize("m", range(11))
def test_operations_on_levels_are_those_of_pillow(m: int) -> None:
    strength, image = m / 10, Image.fromarray(picture())
    exact = {
        "identity": image,
        "posterize": ImageOps.posterize(image, 8 - math.floor(0.4 * m + 0.5)),
        "solarize": ImageOps.solarize(image, math.ceil(256 - 25.6 * m)),
        "equalize": ImageOps.equalize(image),
    }
    for name, expected in exact.items():
        for sign in (-1, 1):
            np.testing.assert_array_equal(operated(name, sign * strength)[1], np.asarray(expected), name)
    # Pillow cuts fractions off, and the mean of contrast is a whole number there
    near = {
        "autocontrast": (ImageOps.autocontrast(image), 1),
        "brightness": (ImageEnhance.Brightness(image).enhance(1 + 0.09 * m), 1),
        "color": (ImageEnhance.Color(image).enhance(1 + 0.09 * m), 2),
        "contrast": (ImageEnhance.Contrast(image).enhance(1 + 0.09 * m), 2),
        "sharpness": (ImageEnhance.Sharpness(image).enhance(1 + 0.09 * m), 2),
    }
    for name, (close, levels) in near.items():
        assert np.abs(operated(name, strength)[1] - np.asarray(close, int)).max() <= levels, name


def test_autocontrast_and_equalize_treat_each_channel_alone_and_leave_one_with_few_levels() -> None:
    flat = picture().copy()
    flat[..., 1], flat[..., 2] = 9, 3 + (flat[..., 2] > 100)
    stretched = picture_of(OPERATIONS["autocontrast"](unit(planar(flat)), 1.0))
    assert (stretched[1] == 9).all()
    assert set(stretched[2].unique().tolist()) == {0, 255}
    spread = picture_of(OPERATIONS["equalize"](unit(planar(flat)), 1.0))
    np.testing.assert_array_equal(spread.permute(1, 2, 0), ImageOps.equalize(Image.fromarray(flat)))


def moved(picture_3HW: Array, forward: Array) -> Array:
    """A picture whose points (x, y), from its corner, go to `forward` @ (x, y, 1): bilinear, grey outside."""
    back = np.linalg.inv(np.vstack([forward, [0, 0, 1]]))
    height, width = picture_3HW.shape[1:]
    padded = np.pad(picture_3HW.astype(np.float64), ((0, 0), (1, 1), (1, 1)), constant_values=128)
    made = np.full(picture_3HW.shape, 128.0)
    for row in range(height):
        for column in range(width):
            x, y, _ = back @ (column + 0.5, row + 0.5, 1) + (0.5, 0.5, 0)
            left, top = math.floor(x), math.floor(y)
            if 0 <= left <= width and 0 <= top <= height:
                four = padded[:, top : top + 2, left : left + 2]
                made[:, row, column] = np.array([1 - y + top, y - top]) @ four @ np.array([1 - x + left, x - left])
    return made


@pytest.mark.parametrize("strength", [-1.0, 0.37, 0.9])
@pytest.mark.parametrize("shape", [(13, 17), (1, 6), (6, 1)])
def test_pictures_are_turned_slanted_and_moved_as_the_specification_says(
    strength: float, shape: tuple[int, int]
) -> None:
    height, width = shape
    small = planar(picture(0, *shape))
    angle = math.radians(30 * strength)
    about = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    rotation = [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    matrices = {
        "rotate": (about @ rotation @ np.linalg.inv(about))[:2],
        "shear-x": [[1, 0.3 * strength, 0], [0, 1, 0]],
        "shear-y": [[1, 0, 0], [0.3 * strength, 1, 0]],
        "translate-x": [[1, 0, 0.45 * strength * width], [0, 1, 0]],
        "translate-y": [[1, 0, 0], [0, 1, 0.45 * strength * height]],
    }
    for name, matrix in matrices.items():
        made = picture_of(OPERATIONS[name](unit(small), strength)).numpy()
        np.testing.assert_array_equal(made, to_levels(moved(small.numpy(), np.array(matrix))), name)
    # counterclockwise is what Pillow calls positive
    turned = Image.fromarray(picture(0, 9, 9)).rotate(30, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)
    ours = picture_of(OPERATIONS["rotate"](unit(planar(picture(0, 9, 9))), 1.0)).permute(1, 2, 0).numpy()
    assert np.abs(ours[3:6, 3:6].astype(int) - np.asarray(turned, int)[3:6, 3:6]).max() <= 1


def test_randaugment_draws_as_the_specification_says() -> None:
    info = info_of("whole,randaugment:n=3:m=7")
    plain = replay(picture(), info_of("whole"), 0, 0)
    drawn: list[str] = []
    for view in range(30):
        numbers, expected = philox(info.seed, 0, view, 1), plain
        for _ in range(3):
            name = list(OPERATIONS)[math.floor(14 * next(numbers))]
            expected = picture_of(OPERATIONS[name](unit(expected), -0.7 if next(numbers) < 0.5 else 0.7))
            drawn.append(name)
        assert torch.equal(replay(picture(), info, 0, view), expected)
    assert set(drawn) == set(OPERATIONS)


def test_erasing_is_that_of_the_specification() -> None:
    info = info_of("whole,erase:p=1:scale=0.1-0.6", size=(24, 30))
    plain = replay(picture(), info_of("whole", size=(24, 30)), 0, 0).numpy()
    for view in range(10):
        numbers = philox(info.seed, 0, view, 1)
        assert next(numbers) < 1
        while True:
            area = 0.1 + (0.6 - 0.1) * next(numbers)
            ratio = math.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * next(numbers))
            tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
            if tall <= 1 and wide <= 1:
                break
        top, left = (1 - tall) * next(numbers), (1 - wide) * next(numbers)
        rows = slice(*(math.floor(share * 24 + 0.5) for share in (top, top + tall)))
        columns = slice(*(math.floor(share * 30 + 0.5) for share in (left, left + wide)))
        expected = plain.copy()
        erased = expected[:, rows, columns]
        erased[...] = np.reshape([math.floor(256 * next(numbers)) for _ in range(erased.size)], erased.shape)
        np.testing.assert_array_equal(replay(picture(), info, 0, view), expected)


def test_nothing_is_erased_where_no_box_fits() -> None:
    info = info_of("whole,erase:p=1:scale=0.9-1:ratio=50-100")
    assert torch.equal(replay(picture(), info, 0, 0), replay(picture(), info_of("whole"), 0, 0))


# --- other sizes


def halved(picture_3HW: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(picture_3HW.double(), 2)


SLOPE = np.stack(
    [
        *np.meshgrid(np.arange(20, 220, 0.5), np.arange(20, 220, 0.5)),
        np.full((400, 400), 90.0),
    ],
    -1,
).astype(np.uint8)


@pytest.mark.parametrize("framing", ["whole", "center:share=0.6", "crop"])
@pytest.mark.parametrize("more", ["", ",flip,jitter", ",grayscale:p=1"])
def test_a_view_of_twice_the_size_shows_the_same(framing: str, more: str) -> None:
    info = info_of(framing + more, size=(40, 50))
    for view in range(6):
        small, large = (replay(SLOPE, info, 0, view, size) for size in (None, (80, 100)))
        assert large.shape == (3, 80, 100)
        assert (halved(large) - small).abs().max() <= 3


@pytest.mark.parametrize("name", ["rotate", "shear-x", "shear-y", "translate-x", "translate-y"])
def test_a_picture_of_twice_the_size_is_moved_twice_as_far(name: str) -> None:
    small, large = (
        picture_of(OPERATIONS[name](unit(replay(SLOPE, info_of("whole"), 0, 0, size)), 0.8))
        for size in ((40, 50), (80, 100))
    )
    apart = (halved(large) - small).abs()
    # along the border with grey they differ
    assert (apart > 2).double().mean() < 0.06


def test_a_box_is_erased_at_the_same_place_at_another_size() -> None:
    info, plain = info_of("whole,erase:p=1", size=(40, 40)), info_of("whole", size=(40, 40))
    for view in range(8):
        small, large = (
            (replay(SLOPE, info, 0, view, size) != replay(SLOPE, plain, 0, view, size)).any(0)
            for size in ((40, 40), (80, 80))
        )
        assert 0 < small.sum() < 1600
        apart = (halved(large[None])[0] - small.double()).abs()
        # noise may hit a pixel's own colour; an edge may lie half a pixel further
        assert apart.mean() < 0.08


# --- mixing


def test_a_mix_is_that_of_the_specification() -> None:
    info, kinds = info_of(FULL, size=(24, 40)), set()
    for image in range(6):
        for view in range(6):
            numbers = philox(info.seed, image, view, 6)
            is_cutmix = math.floor(2 * next(numbers)) == 1
            if not next(numbers) < (1 if is_cutmix else 0.7):
                assert mixing(info, image, 6, view) is None
                continue
            partner = math.floor(5 * next(numbers))
            alpha = 1.0 if is_cutmix else 0.8
            while True:
                one, other = next(numbers) ** (1 / alpha), next(numbers) ** (1 / alpha)
                if 0 < one + other <= 1:
                    break
            weight, box = one / (one + other), None
            if is_cutmix:
                half = math.sqrt(1 - weight) / 2
                y, x = next(numbers), next(numbers)
                top, bottom = (math.floor(24 * end + 0.5) for end in (max(y - half, 0), min(y + half, 1)))
                left, right = (math.floor(40 * end + 0.5) for end in (max(x - half, 0), min(x + half, 1)))
                weight, box = (
                    1 - (bottom - top) * (right - left) / 960,
                    (top / 24, left / 40, bottom / 24, right / 40),
                )
            partner += partner >= image
            assert mixing(info, image, 6, view) == Mix(partner=partner, weight=float(np.float32(weight)), box=box)
            kinds.add(is_cutmix)
    assert kinds == {True, False}


def test_partners_are_uniform_over_the_others_and_chances_are_kept() -> None:
    info = info_of("whole,mixup:p=0.5,cutmix:p=1")
    mixes = [mixing(info, 2, 5, view) for view in range(3000)]
    partners = np.bincount([mix.partner for mix in mixes if mix is not None], minlength=5)
    assert partners[2] == 0
    assert np.abs(partners[[0, 1, 3, 4]] / partners.sum() - 0.25).max() < 0.04
    blended = np.mean([mix is not None and mix.box is None for mix in mixes])
    pasted = np.mean([mix is not None and mix.box is not None for mix in mixes])
    assert abs(blended - 0.25) < 0.04
    assert abs(pasted - 0.5) < 0.04


def test_an_image_alone_or_a_list_without_mixing_has_no_mix() -> None:
    assert mixing(info_of("whole,mixup"), 0, 1, 0) is None
    assert mixing(info_of("whole,flip"), 0, 5, 0) is None
    assert {mixing(info_of("whole,mixup"), image, 2, 0).partner for image in (0, 1)} == {0, 1}  # type: ignore[union-attr]


def test_the_weight_of_a_cutmix_is_the_share_of_pixels_that_are_left_at_every_multiple_of_the_size() -> None:
    info = info_of("whole,cutmix", size=(10, 14))
    own, partner = torch.full((1, 3, 10, 14), 255, dtype=torch.uint8), torch.zeros(1, 3, 10, 14, dtype=torch.uint8)
    flat = info.model_copy(update={"mean": (0.0,) * 3, "std": (1.0,) * 3})
    for view in range(50):
        if (mix := mixing(info, 0, 9, view)) is not None:
            for times in (1, 2, 3):
                made = finish(*(enlarged(each, times) for each in (own,)), flat, enlarged(partner, times), [mix])
                assert made.double().mean().item() == pytest.approx(mix.weight, abs=1e-7)
                assert np.float32(mix.weight) == mix.weight


def enlarged(pictures_B3HW: Tensor, times: int) -> Tensor:
    return pictures_B3HW.repeat_interleave(times, -1).repeat_interleave(times, -2)


def test_finishing_is_its_formula_whatever_else_is_in_the_batch() -> None:
    info = info_of(FULL)
    pictures, partners = (
        torch.stack([replay(picture(image), info, image, view) for image in range(IMAGES)]) for view in (0, 1)
    )
    mixes = [
        None,
        Mix(partner=1, weight=float(np.float32(0.3)), box=None),
        Mix(partner=2, weight=0.75, box=(0.25, 0, 0.75, 0.5)),
        Mix(partner=3, weight=0.0, box=None),
    ]
    together = finish(pictures, info, partners, mixes)
    assert (together.dtype, together.shape) == (torch.float32, (4, 3, 32, 32))
    own, other = pictures.double(), partners.double()
    expected = own.clone()
    expected[1] = own[1] * np.float32(0.3) + other[1] * (1 - np.float32(0.3))
    expected[2, :, 8:24, :16] = other[2, :, 8:24, :16]
    expected[3] = other[3]
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (info.mean, info.std))
    torch.testing.assert_close(together.double(), (expected / 255 - mean) / std, rtol=1e-6, atol=1e-6)
    order = [2, 0, 3, 1, 1]
    again = finish(pictures[order], info, partners[order], [mixes[index] for index in order])
    assert torch.equal(again, together[order])
    for index, mix in enumerate(mixes):
        alone = finish(pictures[index, None], info, partners[index, None], [mix])
        assert torch.equal(alone[0], together[index])
    assert torch.equal(finish(pictures[:1], info), together[:1])
    # each step rounded to float32 on its own, as any device does it
    mean_311, std_311 = (np.array(values, np.float32).reshape(3, 1, 1) for values in (info.mean, info.std))
    steps = (pictures[0].numpy().astype(np.float32) / np.float32(255) - mean_311) / std_311
    np.testing.assert_array_equal(together[0], steps)
    assert pictures.dtype == torch.uint8


def test_a_mix_without_partners_is_refused() -> None:
    pictures = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    mix = Mix(partner=1, weight=0.5, box=None)
    for partners, mixes in ((None, [mix, None]), (pictures[:1], [mix, None]), (pictures, [mix])):
        with pytest.raises(ValueError, match="need a partner and a mix"):
            finish(pictures, info_of("whole"), partners, mixes)


# --- what is said, and what is read


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
        ("", "the first transform must be one of whole, center, crop, but there is none. Put one of them first."),
        ("flip", "the first transform must be one of whole, center, crop, but the first is 'flip'. Put one"),
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
        ("interpolation", "nearest"),
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


# --- libraries


def test_versions_are_those_of_the_libraries_that_can_change_a_pixel() -> None:
    assert versions(parse_transforms("crop,flip,erase,mixup")).keys() == {"torch", "pillow"}
    found = versions(parse_transforms("crop,jitter"))
    assert found.keys() == {"torch", "pillow", "kornia"}
    assert found["torch"] == torch.__version__.partition("+")[0]
    check_versions(info_of(FULL))


def test_another_version_is_refused_by_name_with_the_way_out() -> None:
    here_ = versions(parse_transforms(FULL))
    other = info_of(FULL, versions=here_ | {"kornia": "0.7.2"})
    message = (
        f"kornia 0.7.2 there, {here_['kornia']} here. Another version may give other pixels. Install what was used: "
    )
    with pytest.raises(CacheMismatch, match=re.escape(message + "pip install kornia==0.7.2")):
        check_versions(other)


def test_without_kornia_only_the_transforms_that_need_it_are_refused() -> None:
    code = """
import sys
sys.modules["kornia"] = None
from logitstore.errors import BadInput
from logitstore.views.replay import replay
from tests.made_views import info_of, picture
replay(picture(), info_of("crop,flip,grayscale,erase,mixup,cutmix"), 0, 0)
for text in ("crop,jitter", "whole,randaugment"):
    try:
        replay(picture(), info_of(text), 0, 0)
    except BadInput as error:
        print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        f"the transform '{name}' needs kornia, which is not installed. Install it: pip install 'logitstore[vision]'."
        for name in ("jitter", "randaugment")
    ]


def test_a_library_that_is_missing_is_named_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.distribution", missing)
    with pytest.raises(BadInput, match=r"views of images need torch, .* pip install 'logitstore\[vision\]'\."):
        versions(parse_transforms("crop"))


def missing(name: str) -> None:
    raise PackageNotFoundError(name)
