"""Constants of the codecs on other devices; `meta`, which holds no numbers, stands for one."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch

from logitstore.format.codecs import arrays
from logitstore.format.codecs.arrays import beside
from logitstore.format.codecs.bits import Bits
from logitstore.format.codecs.codebook import normal_codebook
from logitstore.format.codecs.levels import Levels
from logitstore.format.codecs.log2 import Log2

DEVICE = torch.device("meta")


def test_constants_come_to_the_library_and_the_device_of_an_array() -> None:
    constants = np.arange(3)
    assert beside(constants, np.zeros(1)) is constants
    there = beside(constants, torch.zeros(1))
    assert there.tolist() == [0, 1, 2]
    assert beside(constants, torch.zeros(1, device=DEVICE)).device == DEVICE


def test_a_copy_on_a_device_is_made_once_and_goes_with_its_constants() -> None:
    gc.collect()
    before, array = len(arrays._ON_DEVICES), torch.zeros(1, device=DEVICE)
    constants, others = np.arange(3), np.arange(3)
    copy = beside(constants, array)
    assert beside(constants, array) is copy
    assert beside(others, array) is not copy
    assert len(arrays._ON_DEVICES) == before + 2
    del constants, others
    gc.collect()
    assert len(arrays._ON_DEVICES) == before


@pytest.mark.parametrize(
    ("codec", "stored"),
    [
        (Bits((18,) * 8), torch.zeros(5, 18, dtype=torch.uint8, device=DEVICE)),
        (normal_codebook((3, 2, 1)), torch.zeros(5, 1, dtype=torch.uint8, device=DEVICE)),
        (Levels(8, 4), torch.zeros(5, 4, dtype=torch.uint8, device=DEVICE)),
        (Levels(5, 4), torch.zeros(5, 3, dtype=torch.uint8, device=DEVICE)),
        (Log2(8), torch.zeros(5, dtype=torch.uint8, device=DEVICE)),
    ],
)
def test_decoding_again_copies_nothing(
    codec: Bits | Levels | Log2, stored: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert codec.decode(stored).device == DEVICE
    monkeypatch.setattr(torch, "as_tensor", None)
    assert codec.decode(stored).device == DEVICE
