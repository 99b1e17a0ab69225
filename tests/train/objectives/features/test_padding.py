"""Rows padded and taken again."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.train.objectives.features.padding import Padding


@given(counts=st.lists(st.integers(0, 6), max_size=5))
def test_padding_and_taking_the_rows_again_changes_nothing(counts: list[int]) -> None:
    rows = torch.randn(sum(counts), 2, 3)
    padding = Padding.of(torch.tensor(counts, dtype=torch.int64))
    padded = padding.pad(rows)
    assert padded.shape == (len(counts), max(counts, default=0), 2, 3)
    assert torch.equal(padding.rows(padded), rows)
    assert torch.equal(padded.sum((0, 1)), padded.flatten(0, 1).sum(0))
