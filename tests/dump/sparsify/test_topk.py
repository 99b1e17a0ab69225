"""Top-k against a dense float64 softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from logitstore.dump.sparsify.topk import TopK
from logitstore.errors import ModelError


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
    with pytest.raises(ModelError, match="no numbers"):
        TopK(k=2, vocabulary=5)(logits, torch.tensor([0, 0]))
    with pytest.raises(ModelError, match="no numbers"):
        TopK(k=2, vocabulary=5)(torch.full((1, 5), -torch.inf), torch.tensor([0]))
