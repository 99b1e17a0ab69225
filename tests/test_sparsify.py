"""Top-k and the prior tail against dense float64 references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.errors import ModelError
from logitstore.sparsify.prior import UNIFORM_SHARE
from logitstore.sparsify.sketch import TailPilot
from logitstore.sparsify.summary import Summary
from logitstore.sparsify.topk import TopK


@given(
    rows=st.integers(1, 6),
    vocabulary=st.integers(2, 50),
    padding=st.integers(0, 9),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    data=st.data(),
    seed=st.integers(0, 1000),
)
def test_topk_agrees_with_a_dense_float64_softmax_over_the_real_vocabulary(
    rows: int, vocabulary: int, padding: int, dtype: torch.dtype, data: st.DataObject, seed: int
) -> None:
    k = data.draw(st.integers(1, vocabulary))
    generator = torch.Generator().manual_seed(seed)
    logits = (5 * torch.randn(rows, vocabulary + padding, generator=generator)).to(dtype)
    gold = torch.randint(0, vocabulary, (rows,), generator=generator)
    found = TopK(k=k, vocabulary=vocabulary)(logits, gold)
    dense = torch.log_softmax(logits[:, :vocabulary].double(), -1)
    best = dense.sort(-1, descending=True).values[:, :k]
    torch.testing.assert_close(found["logprobs"].double(), best, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["logprobs"].double(), dense.gather(1, found["ids"]), atol=1e-5, rtol=1e-5)
    assert all(len(set(row.tolist())) == k for row in found["ids"])
    assert found["top1"].tolist() == found["ids"][:, 0].tolist()
    assert found["gold_listed"].tolist() == (found["ids"] == gold[:, None]).any(1).tolist()
    torch.testing.assert_close(
        found["gold_logprob"].double(), dense.gather(1, gold[:, None]).squeeze(1), atol=1e-5, rtol=1e-5
    )
    entropy = -(dense.exp() * dense).sum(-1)
    torch.testing.assert_close(found["entropy"].double(), entropy, atol=1e-5, rtol=1e-5)
    tail = dense.exp().scatter(1, found["ids"], 0.0).sum(-1)
    torch.testing.assert_close(found["tail_logmass"].double().exp(), tail, atol=1e-6, rtol=1e-5)


def test_with_every_token_listed_there_is_no_tail() -> None:
    found = TopK(k=12, vocabulary=12)(torch.randn(4, 12), torch.zeros(4, dtype=torch.int64))
    assert torch.isneginf(found["tail_logmass"]).all()


def test_a_tail_far_below_rounding_of_one_is_kept() -> None:
    logits = torch.zeros(1, 100)
    logits[0, 7] = 40.0
    found = TopK(k=1, vocabulary=100)(logits, torch.tensor([7]))
    assert found["tail_logmass"].item() == pytest.approx(np.log(99) - 40, abs=1e-4)


def test_equal_logprobs_are_ordered_by_id() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 0.0, 3.0, 2.0]])
    found = TopK(k=5, vocabulary=6)(logits, torch.tensor([0]))
    assert found["ids"].tolist() == [[1, 2, 4, 5, 0]]


def test_impossible_tokens_have_no_mass_and_leave_the_entropy_finite() -> None:
    logits = torch.tensor([[0.0, -torch.inf, 0.0, -torch.inf]])
    found = TopK(k=3, vocabulary=4)(logits, torch.tensor([1]))
    assert found["ids"][0, :2].tolist() == [0, 2]
    assert torch.isneginf(found["logprobs"][0, 2])
    assert torch.isneginf(found["gold_logprob"]).all()
    assert found["entropy"].item() == pytest.approx(np.log(2))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_logits_are_refused(bad: float) -> None:
    logits = torch.zeros(2, 5)
    logits[1, 3] = bad
    with pytest.raises(ModelError, match="NaN"):
        TopK(k=2, vocabulary=5)(logits, torch.tensor([0, 0]))
    with pytest.raises(ModelError, match="NaN"):
        TopK(k=2, vocabulary=5)(torch.full((1, 5), -torch.inf), torch.tensor([0]))


def test_the_prior_is_the_mean_of_the_unlisted_probabilities() -> None:
    logits = torch.randn(30, 24, dtype=torch.float64).float()
    ids = logits[:, :20].topk(3).indices
    fit = TailPilot(20)
    fit.add(logits[:11], ids[:11])
    fit.add(logits[11:], ids[11:])
    tails = torch.softmax(logits[:, :20].double(), -1).scatter(1, ids, 0.0).sum(0)
    expected = (1 - UNIFORM_SHARE) * tails / tails.sum() + UNIFORM_SHARE / 20
    torch.testing.assert_close(fit.prior(), expected.float(), atol=1e-7, rtol=1e-5)
    assert fit.rows == 30


def test_the_prior_of_rows_without_a_tail_is_uniform() -> None:
    fit = TailPilot(6)
    fit.add(torch.randn(4, 6), torch.arange(6).repeat(4, 1))
    torch.testing.assert_close(fit.prior(), torch.full((6,), 1 / 6))


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
    monkeypatch.setattr("logitstore.sparsify.summary.SUMMARY_ELEMENTS", chunk * 297)
    pieces = Summary.of(logits, 297)
    assert all(torch.equal(value, getattr(pieces, name)) for name, value in vars(whole).items())
