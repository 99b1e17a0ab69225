"""What a teacher is shown of packed lines are the tokens of the samples, and the places of their rows."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from logitstore.text.lines.shown import lines_of_texts
from logitstore.text.sample import Sample


@given(
    masks=st.lists(st.lists(st.booleans(), min_size=1, max_size=20).filter(any), min_size=1, max_size=20),
    budget=st.integers(1, 80),
)
def test_rows_are_where_their_samples_are(masks: list[list[bool]], budget: int) -> None:
    samples = [
        Sample(
            key="", tokens_T=np.arange(len(mask) + 1) + 100 * number, mask_T=np.array([*mask, False]), document=number
        )
        for number, mask in enumerate(masks)
    ]
    seen: list[int] = []
    for batch in lines_of_texts(samples, budget):
        seen += batch.indices
        tokens_R, positions_R = (batch.inputs[name].flatten().numpy() for name in ("input_ids", "position_ids"))
        assert batch.inputs["input_ids"].shape == batch.inputs["position_ids"].shape
        assert set(batch.inputs) == {"input_ids", "position_ids"}
        rows_N = batch.rows_N.numpy()
        assert (np.diff(rows_N) > 0).all()
        asked = [samples[index] for index in batch.indices]
        assert batch.samples == asked
        assert positions_R[rows_N].tolist() == [place for sample in asked for place in sample.positions_N]
        assert tokens_R[rows_N].tolist() == [token for sample in asked for token in sample.tokens_T[sample.positions_N]]
        assert tokens_R[rows_N + 1].tolist() == batch.gold_N.tolist()
    assert sorted(seen) == list(range(len(samples)))
