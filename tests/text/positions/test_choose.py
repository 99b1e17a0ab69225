"""Random numbers and entropies choose the positions of a sample."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import Philox

from logitstore.core.types import Array
from logitstore.format.positions import Share
from logitstore.text.positions.choose import chosen, highest, lowest, undecided
from logitstore.text.sample import Sample, key_of


def made(tokens: list[int], asked: list[bool]) -> Sample:
    tokens_T = np.array(tokens)
    return Sample(key=key_of(tokens_T), tokens_T=tokens_T, mask_T=np.array([*asked[:-1], False]), document=0)


SAMPLES = st.integers(2, 60).flatmap(
    lambda length: st.builds(
        made,
        st.lists(st.integers(0, 99), min_size=length, max_size=length),
        st.lists(st.booleans(), min_size=length, max_size=length),
    )
)


@given(sample=SAMPLES.filter(lambda sample: sample.rows > 0), millionths=st.integers(1, 999_999))
def test_a_random_choice_has_the_smallest_numbers_of_the_samples_third_stream(sample: Sample, millionths: int) -> None:
    """The numbers are made from the words of docs/format.md: 53 bits of each output, from the sample's key alone."""
    share = Share(by="random", millionths=millionths)
    found = chosen(sample, share)
    raw = Philox(key=int(sample.key, 16), counter=[0, 0, 0, 2]).random_raw(sample.rows)
    numbers = [int(word) // 2**11 for word in raw]
    count = int(share.counts(np.array([sample.rows]))[0])
    places = sorted(sorted(range(sample.rows), key=lambda place: (numbers[place], place))[:count])
    assert found.positions_N.tolist() == sample.positions_N[places].tolist()
    assert found.gold_T is not None
    assert found.gold_T.tolist() == sample.mask_T.tolist()
    assert found.rows == count
    assert found.undecided is None


@given(sample=SAMPLES.filter(lambda sample: sample.rows > 0), millionths=st.integers(1, 999_999))
def test_a_sample_that_the_teacher_decides_has_its_count_and_keeps_its_candidates(
    sample: Sample, millionths: int
) -> None:
    share = Share(by="entropy", millionths=millionths)
    found = chosen(sample, share)
    assert found.rows == found.undecided == share.counts(np.array([sample.rows]))[0]
    assert found.positions_N.tolist() == sample.positions_N.tolist()
    again = undecided(chosen(sample, Share(by="random", millionths=millionths)))
    assert (again.rows, again.positions_N.tolist()) == (found.rows, found.positions_N.tolist())


@given(values=st.lists(st.sampled_from([0.0, 1.0, 1.0001, 2.5, 7.0]), min_size=1, max_size=30), data=st.data())
def test_of_equal_ones_the_first_are_taken(values: list[float], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(values)))
    numbers = np.array(values, np.float32)
    rounded: Array = numbers.astype(np.float16)
    by_size = sorted(range(len(values)), key=lambda place: (-rounded[place], place))[:count]
    assert highest(numbers, count).tolist() == sorted(by_size)
    smallest = sorted(range(len(values)), key=lambda place: (numbers[place], place))[:count]
    assert lowest(numbers, count).tolist() == sorted(smallest)
