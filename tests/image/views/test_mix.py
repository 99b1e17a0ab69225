"""Mixes of views are those of the specification."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.image.views.finish import finish
from logitstore.image.views.mix import Mix, mixing
from tests.parts.view_formulas import philox
from tests.parts.views import FULL, info_of


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
