"""Samples laid into lines: each once, none over another, and less padding than lines of one sample have."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitstore.text.lines.pack import packed, packed_batches, positions
from logitstore.text.lines.shown import by_length

LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=60).map(np.array)


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_every_sample_is_in_one_line_of_a_batch_within_the_budget(lengths: np.ndarray, budget: int) -> None:
    batches = packed_batches(lengths, budget)
    assert sorted(index for lines in batches for line in lines for index in line) == list(range(len(lengths)))
    widths = [max(lengths[line].sum() for line in lines) for lines in batches]
    assert all(len(lines) == 1 or len(lines) * width <= budget for lines, width in zip(batches, widths, strict=True))
    # a line is as wide as the longest sample of its batch, which is its first
    assert widths == [lengths[lines[0][0]] for lines in batches]
    assert widths == sorted(widths, reverse=True)


@given(lengths=LENGTHS, budget=st.integers(1, 200))
def test_lines_of_several_samples_take_no_more_places_than_lines_of_one(lengths: np.ndarray, budget: int) -> None:
    several = sum(len(lines) * lengths[lines[0][0]] for lines in packed_batches(lengths, budget))
    alone = sum(len(batch) * lengths[batch[0]] for batch in by_length(lengths, budget))
    assert lengths.sum() <= several <= alone


def test_short_samples_fill_the_lines_of_long_ones() -> None:
    lengths = np.array([3, 10, 4, 7, 3, 10, 6, 2])
    assert packed_batches(lengths, 30) == [[[5], [1], [3, 4]], [[6], [2, 7], [0]]]


@given(lengths=LENGTHS)
def test_positions_begin_again_at_each_sample(lengths: np.ndarray) -> None:
    lines, offsets, shape = packed(lengths)
    starts = lines * shape[1] + offsets
    flat = positions(starts, lengths, shape).reshape(-1)
    for start, length in zip(starts, lengths, strict=True):
        assert flat[start : start + length].tolist() == list(range(length))
    assert flat.sum() == sum(length * (length - 1) // 2 for length in lengths)
