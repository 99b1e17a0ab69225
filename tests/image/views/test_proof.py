"""Views are the same wherever they are made; digests and versions prove it."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import random
import re
import struct
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from typing import Any

import numpy as np
import pytest
import torch
import xxhash

from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.views import parse_transforms
from logitstore.image.views.finish import finish
from logitstore.image.views.mix import Mix, mixing
from logitstore.image.views.proof import check_versions, digest, versions
from logitstore.image.views.replay import replay
from logitstore.image.views.uniforms import seed_of
from tests.parts.places import ROOT
from tests.parts.views import CASES, FULL, IMAGES, VIEWS, digests, info_of, picture

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
    "mask": [1183993019, 272492282],
    "mixup": [2337690473, 2364368925],
    "cutmix": [1247070259, 3765920339],
    "full": [2407942462, 277991917],
}
"""The digests of views 1 and 0 of image 0 in every case. They pin what the digests in stored caches mean: where one changes,
views cannot be replayed for old caches any more. They change with a new version of the format only."""


# --- the same wherever it is made


def elsewhere(**variables: str) -> dict[str, list[list[int]]]:
    """The digests that a process of its own finds, after it has used the global random numbers."""
    command = [sys.executable, "-m", "tests.parts.views"]
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
from logitstore.image.views.replay import replay
from tests.parts.views import info_of, picture
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
