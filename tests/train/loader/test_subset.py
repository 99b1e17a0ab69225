"""A set of samples is the array of their numbers, in less memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from logitstore.train.loader.subset import SampleSet


@given(st.lists(st.booleans(), max_size=300), st.integers(0, 1000), st.data())
def test_a_set_is_the_array_of_its_numbers(chosen: list[bool], first: int, data: st.DataObject) -> None:
    is_chosen_S = np.array(chosen, np.bool_)
    expected = np.flatnonzero(is_chosen_S) + first
    found = SampleSet(is_chosen_S, first)
    assert len(found) == len(expected)
    assert np.asarray(found).tolist() == list(found) == expected.tolist()
    assert np.array_equal(found.mask(), is_chosen_S)
    if len(expected):
        places = np.array(data.draw(st.lists(st.integers(-len(expected), len(expected) - 1), max_size=20)), np.int64)
        assert found[places].tolist() == expected[places].tolist()
        assert found[places].dtype == np.int64
        values_S = np.array(data.draw(st.lists(st.integers(0, 9), min_size=len(chosen), max_size=len(chosen))))
        assert found.largest_of(values_S) == values_S[is_chosen_S].max()
        assert found[2:9:3].tolist() == expected[2:9:3].tolist()
    numbers = np.array(data.draw(st.lists(st.integers(0, len(chosen) + first + 9), max_size=20)), np.int64)
    assert found.count_below(numbers).tolist() == np.searchsorted(expected, numbers).tolist()
    for place in (len(expected), -len(expected) - 1):
        with pytest.raises(IndexError):
            found[place]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999, 1.0])
def test_the_smaller_side_is_held(share: float) -> None:
    is_chosen_S = np.random.default_rng(0).random(100_000) < share
    found = SampleSet(is_chosen_S)
    assert found._held.nbytes <= 4 * min(is_chosen_S.sum(), (~is_chosen_S).sum())
    assert np.array_equal(np.asarray(found), np.flatnonzero(is_chosen_S))
