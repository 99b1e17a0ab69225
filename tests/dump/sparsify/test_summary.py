"""The summary of logits in blocks gives what a look at everything gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.dump.sparsify.summary import Summary


@given(
    rows=st.integers(1, 7),
    vocabulary=st.integers(1, 1500),
    k=st.integers(1, 40),
    levels=st.sampled_from([2, 5, 40, 10**6]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    impossible=st.floats(0, 0.9),
    seed=st.integers(0, 10**6),
)
def test_the_blocks_give_what_a_look_at_everything_gives(
    rows: int, vocabulary: int, k: int, levels: int, dtype: torch.dtype, impossible: float, seed: int
) -> None:
    """Ties in plenty (few levels, bfloat16), tokens that cannot come, vocabularies that do not fill their blocks."""
    draw = torch.Generator().manual_seed(seed)
    logits = (torch.randn(rows, vocabulary + 5, generator=draw) * 4 * levels / 8).round() / (levels / 8)
    logits[torch.rand(logits.shape, generator=draw) < impossible] = -torch.inf
    logits[:, 0] = torch.where(torch.isneginf(logits[:, :vocabulary]).all(1), 0.0, logits[:, 0])
    logits = logits.to(dtype)
    k = min(k, vocabulary)
    wide = logits[:, :vocabulary].double()
    order = torch.sort(wide, dim=1, descending=True, stable=True).indices
    logprobs = torch.log_softmax(wide, 1)
    summary = Summary.of(logits, vocabulary)
    top = summary.top(k)
    assert torch.equal(top.ids_NK, order[:, :k])
    torch.testing.assert_close(top.logprobs_NK.double(), logprobs.gather(1, order[:, :k]), rtol=1e-5, atol=1e-5)
    outside = logprobs.gather(1, order[:, k:]).exp().sum(1)
    torch.testing.assert_close(top.outside_N.double(), outside, rtol=1e-4, atol=1e-30)
    entropy = -torch.where(logprobs.exp() > 0, logprobs.exp() * logprobs, 0.0).sum(1)
    torch.testing.assert_close(summary.entropy_N.double(), entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((summary.top_N.double() + summary.rest_N), wide.logsumexp(1), rtol=1e-6, atol=1e-5)


def test_a_row_of_equal_logits_is_looked_through_whole() -> None:
    logits = torch.zeros(2, 64 * 40)
    logits[1, 777] = 1
    top = Summary.of(logits, 64 * 40).top(5)
    assert top.ids_NK.tolist() == [[0, 1, 2, 3, 4], [777, 0, 1, 2, 3]]
    assert top.outside_N[0].item() == pytest.approx(1 - 5 / 2560)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_the_summary_does_not_depend_on_the_rows_at_a_time(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    logits = torch.randn(7, 300).bfloat16()
    whole = Summary.of(logits, 297)
    monkeypatch.setattr("logitstore.dump.sparsify.summary.SUMMARY_ELEMENTS", chunk * 297)
    pieces = Summary.of(logits, 297)
    assert all(torch.equal(value, getattr(pieces, name)) for name, value in vars(whole).items())


@given(top=st.floats(-19, 60), gap=st.floats(8, 120), vocabulary=st.integers(2, 200))
def test_a_teacher_that_is_certain_of_a_token_gives_no_probability_above_1(
    top: float, gap: float, vocabulary: int
) -> None:
    logits = torch.full((1, vocabulary), top - gap)
    logits[0, vocabulary // 2] = top
    summary = Summary.of(logits, vocabulary)
    assert float(summary.top(1).logprobs_NK[0, 0]) <= 0
    assert float(summary.logprobs().max()) <= 0
    assert float(summary.entropy_N[0]) >= 0
