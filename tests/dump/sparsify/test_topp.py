"""The nucleus is the fewest tokens that reach the mass."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from logitstore.dump.sparsify.reduce import sparsifier_of
from tests.parts.kept_rows import row_for


@given(k=st.integers(1, 30), top_p=st.floats(0.05, 1.0), sharpness=st.floats(0.1, 5), seed=st.integers(0, 1000))
def test_the_nucleus_is_the_fewest_tokens_that_reach_the_mass(
    k: int, top_p: float, sharpness: float, seed: int
) -> None:
    logits = sharpness * torch.randn(1, 30, generator=torch.Generator().manual_seed(seed))
    probs = torch.softmax(logits[0].double(), -1).tolist()
    ranked = sorted(range(30), key=lambda token: -probs[token])
    sums = list(itertools.accumulate(probs[token] for token in ranked))
    assume(all(abs(total - top_p) > 1e-6 for total in sums))
    wanted = ranked[: min(k, 1 + sum(total < top_p for total in sums))]
    gold = ranked[seed % 30]
    found = sparsifier_of(row_for("topp", 30, k=k, top_p=top_p))(logits, torch.tensor([gold]))
    assert found["ids"][0].tolist() == wanted + [0] * (k - len(wanted))
    assert torch.isneginf(found["logprobs"][0]).tolist() == [place >= len(wanted) for place in range(k)]
    dropped = sum(probs[token] for token in set(range(30)) - set(wanted))
    assert found["tail_logmass"].exp().item() == pytest.approx(dropped, abs=1e-6)
    assert found["gold_listed"].item() == (gold in wanted)
