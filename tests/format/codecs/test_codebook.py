"""The best levels for normal coefficients, as published."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.format.codecs.codebook import Codebook, lloyd_max, normal_codebook
from tests.parts.codecs import in_torch

MAX_1960 = {1: 0.3634, 2: 0.1175, 3: 0.03454, 4: 0.009497, 5: 0.002499}
"""Mean squared errors of the best quantisers of a standard normal: Max 1960, table I."""


@pytest.mark.parametrize("bits", MAX_1960)
def test_the_best_levels_lose_what_max_published(bits: int) -> None:
    _, lost = lloyd_max(bits)
    assert lost == pytest.approx(MAX_1960[bits], rel=0.005)
    values = np.random.default_rng(bits).standard_normal((200_000, 1)).astype(np.float32)
    codec = normal_codebook((bits,))
    assert np.mean((codec.decode(codec.encode(values)) - values) ** 2) == pytest.approx(lost, rel=0.03)


@pytest.mark.parametrize("bits", range(9))
def test_the_best_levels_rise_and_are_symmetric(bits: int) -> None:
    levels, lost = lloyd_max(bits)
    assert len(levels) == 1 << bits
    assert (np.diff(levels) > 0).all()
    np.testing.assert_array_equal(levels, -levels[::-1])
    assert bits == 0 or lost < lloyd_max(bits - 1)[1] / 2


@given(widths=st.lists(st.integers(0, 8), min_size=1, max_size=7), seed=st.integers(0, 1000), rows=st.integers(0, 5))
def test_every_coefficient_goes_to_its_nearest_level_and_stays_there(widths: list[int], seed: int, rows: int) -> None:
    generator = np.random.default_rng(seed)
    widths = [*widths, 1]
    steps = generator.uniform(0.01, 1, (len(widths), 1 << max(widths)))
    codec = Codebook(tuple(widths), (steps.cumsum(1) - steps.sum(1, keepdims=True) / 3).astype(np.float32))
    values = (4 * generator.standard_normal((rows, len(widths)))).astype(np.float32)
    stored = codec.encode(values)
    found = codec.decode(stored)
    np.testing.assert_array_equal(codec.decode(in_torch(stored)).numpy(), found)
    np.testing.assert_array_equal(codec.encode(found), stored)
    for place, width in enumerate(widths):
        levels = codec.levels_RL[place, : 1 << width]
        assert np.isin(found[:, place], levels).all()
        nearest = np.abs(values[:, place, None] - levels).min(1)
        np.testing.assert_allclose(np.abs(values[:, place] - found[:, place]), nearest, atol=1e-5)
