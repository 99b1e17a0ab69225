"""Formulas of the specification that the tests of several views share."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.image.views.uniforms import seed_of

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


def to_levels(levels: Array) -> Array:
    return np.floor(np.clip(levels + 0.5 + 2.0**-20, 0, 255)).astype(np.uint8)


# --- what changes a view


def planar(picture_HW3: Array) -> Tensor:
    return torch.from_numpy(picture_HW3.transpose(2, 0, 1).copy())
