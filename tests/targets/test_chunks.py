"""Runs of consecutive positions."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.targets.chunks import runs


@given(positions=st.lists(st.integers(0, 60), unique=True, max_size=40), chunk=st.integers(1, 9))
def test_runs_are_views_of_consecutive_positions_and_cover_every_row_once(positions: list[int], chunk: int) -> None:
    rows = torch.tensor(sorted(positions), dtype=torch.int64)
    seen = torch.arange(61)
    found = list(runs(rows, chunk))
    assert all(some.stop - some.start <= chunk for some, _ in found)
    assert [index for some, _ in found for index in range(some.start, some.stop)] == list(range(len(rows)))
    assert torch.equal(torch.cat([seen[places] for _, places in found] or [seen[:0]]), rows)
