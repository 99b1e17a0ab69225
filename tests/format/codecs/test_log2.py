"""Masses within their bound down to the smallest."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from logitstore.core.types import Array
from logitstore.format.codecs.log2 import Log2
from tests.parts.codecs import in_torch


@given(
    bits=st.sampled_from([8, 16]),
    logmass=arrays.arrays(np.float32, st.integers(0, 9), elements=st.floats(-200, 2**-20, width=32) | st.just(-np.inf)),
)
def test_masses_are_within_the_bound_down_to_the_smallest_and_none_stays_none(bits: int, logmass: Array) -> None:
    codec = Log2(bits)
    stored = codec.encode(logmass)
    assert stored.dtype == np.dtype(f"uint{bits}")
    found = codec.decode(stored)
    np.testing.assert_array_equal(codec.decode(in_torch(stored)).numpy(), found)
    np.testing.assert_array_equal(codec.encode(found), stored)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(logmass))
    kept = np.clip(logmass[np.isfinite(logmass)], -32 * np.log(2), 0.0)
    assert (np.abs(found[np.isfinite(found)] - kept) <= codec.bound + 2e-6).all()
