"""Teacher batches keep to their budget."""

from __future__ import annotations

from itertools import chain

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitstore.text.lines.shown import by_length


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=50), budget=st.integers(1, 500))
def test_teacher_batches_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_length(np.array(lengths), budget)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)
