"""A view at another size shows the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from logitstore.image.views.levels import picture_of, unit
from logitstore.image.views.randaugment import OPERATIONS
from logitstore.image.views.replay import replay
from tests.parts.views import info_of


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
