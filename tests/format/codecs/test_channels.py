"""Channels of hidden states come back within half a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.core.types import Array
from logitstore.dump.fit import head_tensors
from logitstore.format.codecs import channels
from logitstore.format.codecs.channels import Channels
from logitstore.models.head import LinearHead
from tests.parts.codecs import in_torch, logprob_rows


@given(
    hidden=logprob_rows(st.floats(-1000, 1000, width=32)),
    seed=st.integers(0, 1000),
    is_at_mean=st.booleans(),
    spread=st.floats(0.01, 100),
)
def test_channels_are_within_half_a_step(hidden: Array, seed: int, is_at_mean: bool, spread: float) -> None:
    generator = np.random.default_rng(seed)
    mean = generator.normal(0, 100, hidden.shape[1]).astype(np.float32)
    codec = Channels(mean, (spread * generator.uniform(0.1, 10, hidden.shape[1])).astype(np.float32))
    hidden[0] = mean if is_at_mean else hidden[0]
    stored, scale = codec.encode(hidden)
    assert (stored.dtype, scale.dtype) == (np.int8, np.float16)
    assert np.abs(stored.astype(int)).max() <= 127
    found = codec.decode(stored, scale)
    np.testing.assert_array_equal(codec.decode(in_torch(stored), in_torch(scale)).numpy(), found)
    half = codec.std_D.astype(np.float64) * scale.astype(np.float64)[:, None] / 2
    rounding = 4e-7 * (np.abs(hidden) + np.abs(mean) + 254 * half)
    assert (np.abs(found - hidden.astype(np.float64)) <= half + rounding).all()
    if is_at_mean:
        np.testing.assert_array_equal(found[0], mean)


def test_constant_channels_come_back() -> None:
    codec = Channels(np.array([3.0, 0.0], np.float32), np.array([1e-6, 1.0], np.float32))
    found = codec.decode(*codec.encode(np.array([[3.0, 2.0], [3.0, -0.5]], np.float32)))
    np.testing.assert_allclose(found, [[3.0, 2.0], [3.0, -0.5]], atol=0.01)
    assert codec.decode(*codec.encode(np.zeros((0, 2), np.float32))).shape == (0, 2)


def test_a_channel_that_was_constant_in_the_pilot_may_move() -> None:
    pilot = torch.randn(500, 8, generator=torch.Generator().manual_seed(0))
    pilot[:, 0] = 3.0
    shared = head_tensors(LinearHead(torch.zeros(5, 8), torch.zeros(5)), pilot)
    codec = Channels(shared["mean"].numpy(), shared["std"].numpy())
    moved = pilot[:3].numpy().copy()
    moved[:, 0] += 0.2
    np.testing.assert_allclose(codec.decode(*codec.encode(moved)), moved, atol=0.1)


def test_a_scale_beyond_float16_is_cut_off_and_stays_finite() -> None:
    codec = Channels(np.zeros(2, np.float32), np.array([1e-6, 1.0], np.float32))
    assert np.isfinite(codec.decode(*codec.encode(np.array([[10.0, 2.0]], np.float32)))).all()


def test_many_rows_are_encoded_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    codec = Channels(generator.normal(size=6).astype(np.float32), generator.uniform(0.1, 9, 6).astype(np.float32))
    hidden = generator.normal(size=(23, 6)).astype(np.float32) * 5
    whole = codec.encode(hidden)
    monkeypatch.setattr(channels, "TOGETHER", 5 * 6)
    for found, expected in zip(codec.encode(hidden), whole, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
