"""Finishing a batch of views is its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from logitstore.image.views.finish import finish
from logitstore.image.views.mix import Mix
from logitstore.image.views.replay import replay
from tests.parts.views import FULL, IMAGES, info_of, picture


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
