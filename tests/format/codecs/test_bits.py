"""Numbers of few bits lie bit after bit and come back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.format.codecs.bits import Bits
from tests.parts.codecs import in_torch


@given(widths=st.lists(st.integers(0, 24), min_size=1, max_size=12), rows=st.integers(0, 3), data=st.data())
def test_numbers_lie_bit_after_bit_lowest_first_and_come_back(
    widths: list[int], rows: int, data: st.DataObject
) -> None:
    widths = [*widths, 1]  # rows without any bit: see below
    row = st.tuples(*(st.integers(0, (1 << width) - 1) for width in widths))
    numbers = np.array(data.draw(st.lists(row, min_size=rows, max_size=rows)), np.int64).reshape(rows, len(widths))
    codec = Bits(tuple(widths))
    packed = codec.encode(numbers)
    assert (packed.dtype, packed.shape) == (np.uint8, (rows, codec.bytes))
    for found, wanted in zip(packed, numbers.tolist(), strict=True):
        starts = itertools.accumulate(widths, initial=0)
        as_one = sum(number << start for number, start in zip(wanted, starts, strict=False))
        assert int.from_bytes(found.tobytes(), "little") == as_one
    np.testing.assert_array_equal(codec.decode(packed), numbers)
    np.testing.assert_array_equal(codec.decode(in_torch(packed)).numpy(), numbers)


def test_numbers_of_no_bits_come_back_as_zeros() -> None:
    codec = Bits((0, 0))
    np.testing.assert_array_equal(codec.decode(codec.encode(np.zeros((3, 2), np.int64))), np.zeros((3, 2)))


def test_numbers_that_do_not_fit_are_refused() -> None:
    for number in (-1, 8):
        with pytest.raises(ValueError, match="does not fit"):
            Bits((3,)).encode(np.array([[number]]))
    for width in (-1, 25):
        with pytest.raises(ValueError, match="must be from 0 to 24"):
            Bits((width,))
