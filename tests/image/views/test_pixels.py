"""Grey and erased pixels are those of the specification."""

from __future__ import annotations

import math

import numpy as np
import torch

from logitstore.image.views.replay import replay
from tests.parts.view_formulas import philox, to_levels
from tests.parts.views import info_of, picture


def test_greys_are_the_luma() -> None:
    plain = replay(picture(), info_of("whole"), 0, 0).numpy().astype(np.float64)
    expected = to_levels(0.299 * plain[0] + 0.587 * plain[1] + 0.114 * plain[2])
    grey = replay(picture(), info_of("whole,grayscale:p=1"), 0, 0)
    np.testing.assert_array_equal(grey, np.stack([expected] * 3))
    assert torch.equal(replay(picture(), info_of("whole,grayscale:p=0"), 0, 0).float(), torch.from_numpy(plain).float())


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


def test_a_mask_is_that_of_the_specification() -> None:
    """The cells by Fisher and Yates, their borders by rounding, at two sizes."""
    info = info_of("whole,mask:share=0.6:grid=5")
    for view in range(4):
        numbers, order = philox(info.seed, 0, view, 1), list(range(25))
        for place in range(24, 0, -1):
            other = math.floor((place + 1) * next(numbers))
            order[place], order[other] = order[other], order[place]
        for size in ((32, 32), (20, 25)):
            expected = replay(picture(), info_of("whole"), 0, view, size).numpy().copy()
            ends = [[math.floor(cell / 5 * edge + 0.5) for cell in range(6)] for edge in size]
            for cell in order[:15]:
                y, x = divmod(cell, 5)
                expected[:, ends[0][y] : ends[0][y + 1], ends[1][x] : ends[1][x + 1]] = 128
            np.testing.assert_array_equal(replay(picture(), info, 0, view, size), expected)
