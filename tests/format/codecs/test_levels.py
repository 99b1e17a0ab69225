"""Levels of logprobs and their masses within their bounds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.core.types import Array
from logitstore.format.codecs.levels import Levels
from tests.parts.codecs import in_torch, logprob_rows


@given(bits=st.sampled_from([8, 6, 5]), logprobs=logprob_rows())
def test_levels_are_within_half_a_step_and_keep_zero_apart_from_the_smallest(bits: int, logprobs: Array) -> None:
    codec = Levels(bits, logprobs.shape[1])
    stored = codec.encode(logprobs)
    assert stored.shape == (len(logprobs), -(-logprobs.shape[1] * bits // 8))
    found = codec.decode(stored)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(logprobs))
    np.testing.assert_array_equal(codec.decode(in_torch(stored)).numpy(), found)
    np.testing.assert_array_equal(codec.encode(found), stored)
    quarter = np.exp(logprobs.astype(np.float64) / 4)
    apart = np.abs(np.exp(found.astype(np.float64) / 4) - quarter) * codec.top
    assert (apart <= np.where(quarter * codec.top < 0.5, 1.0, 0.5) + 1e-4).all()


@given(bits=st.sampled_from([8, 6, 5]), k=st.integers(1, 200), seed=st.integers(0, 1000))
def test_the_mass_of_levels_is_within_its_bound(bits: int, k: int, seed: int) -> None:
    codec = Levels(bits, k)
    probs = np.random.default_rng(seed).dirichlet(np.full(k, [0.05, 1.0, 1e3][seed % 3]), 20)
    logprobs = np.log(np.maximum(probs, 1e-30)).astype(np.float32)
    decoded = np.exp(codec.decode(codec.encode(logprobs)).astype(np.float64)).sum(1)
    assert np.abs(decoded - probs.sum(1)).max() <= codec.mass_error


@pytest.mark.parametrize(("bits", "level"), [(5, 5), (5, 3), (6, 3)])
def test_the_mass_of_levels_is_within_its_bound_for_many_equal_entries(bits: int, level: int) -> None:
    top = (1 << bits) - 1
    prob = ((level + 0.5001) / top) ** 4
    k = int(1 / prob)
    codec = Levels(bits, k)
    decoded = np.exp(codec.decode(codec.encode(np.full((1, k), np.log(prob), np.float32))).astype(np.float64)).sum()
    assert abs(decoded - k * prob) <= codec.mass_error
