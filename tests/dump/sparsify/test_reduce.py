"""What every sparsifier keeps, through its codec and back."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from logitstore.dump.fit import head_tensors
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.models.head import LinearHead
from logitstore.targets.dense import dense_logprobs
from tests.parts.kept_rows import listed_targets, numbers_for, row_for, teacher_logits

SPARSIFIERS = ["topk", "topp", "sampled", "hybrid", "dense", "hidden"]
LOGITS: dict[str, Any] = {
    "rows": st.integers(1, 4),
    "vocabulary": st.integers(2, 30),
    "padding": st.integers(0, 5),
    "seed": st.integers(0, 1000),
    "dtype": st.sampled_from([torch.float32, torch.bfloat16]),
}


@pytest.mark.parametrize("sparsifier", SPARSIFIERS)
@given(k=st.integers(1, 30), **LOGITS)
def test_what_is_kept_is_true(
    sparsifier: str, k: int, rows: int, vocabulary: int, padding: int, seed: int, dtype: torch.dtype
) -> None:
    chosen = {"k": min(k, vocabulary)} if sparsifier in ("topk", "topp", "hybrid") else {}
    row = row_for(sparsifier, vocabulary, **chosen)
    logits = teacher_logits(rows, vocabulary + padding, seed, dtype)
    gold = torch.randint(0, vocabulary, (rows,), generator=torch.Generator().manual_seed(seed))
    found = sparsifier_of(row)(logits, gold, numbers_for(row, rows))
    true = torch.log_softmax(logits[:, :vocabulary].double(), -1)

    def close(found: Tensor, wanted: Tensor, within: float = 2e-6) -> None:
        torch.testing.assert_close(found.double(), wanted, atol=within, rtol=1e-6)

    close(found["gold_logprob"], true.gather(1, gold[:, None])[:, 0])
    # a float32 sum of logits around 20; it is stored in float16
    close(found["entropy"], -torch.xlogy(true.exp(), true.exp()).sum(1), within=1e-5)
    close(true.gather(1, found["top1"][:, None])[:, 0], true.max(1).values)
    if "ids" not in found:
        close(found.get("logprobs", true), true)
        assert found["gold_listed"].all()
        return
    here = torch.where(torch.isneginf(found["logprobs"]), -torch.inf, true.gather(1, found["ids"]))
    close(found["logprobs"], here)
    full = torch.isfinite(found["logprobs"])
    for ids, full_K, token, is_listed in zip(found["ids"], full, gold, found["gold_listed"], strict=True):
        assert len(set(ids[full_K].tolist())) == int(full_K.sum())
        assert int(ids.max()) < vocabulary
        assert not full_K[ids == token].any() or is_listed
    if "tail_logmass" in found:
        assert (found["logprobs"].diff() <= 0)[full[:, 1:]].all()
        close(here.exp().sum(1) + found["tail_logmass"].exp(), torch.ones(rows).double())


@pytest.mark.parametrize("sparsifier", ["topk", "topp", "dense"])
@given(**LOGITS)
def test_with_every_token_kept_nothing_is_lost(
    sparsifier: str, rows: int, vocabulary: int, padding: int, seed: int, dtype: torch.dtype
) -> None:
    chosen = {"topk": {"k": vocabulary}, "topp": {"k": vocabulary, "top_p": 1.0}, "dense": {}}[sparsifier]
    row = row_for(sparsifier, vocabulary, **chosen)
    logits = teacher_logits(rows, vocabulary + padding, seed, dtype)
    kept = sparsifier_of(row)(logits, torch.zeros(rows, dtype=torch.int64))
    found = dense_logprobs(listed_targets(row, kept)).double()
    true = torch.log_softmax(logits[:, :vocabulary].double(), -1)
    torch.testing.assert_close(found.exp(), true.exp(), atol=1e-6, rtol=1e-5)
    if sparsifier != "topp":  # which drops what float32 cannot add to 1
        torch.testing.assert_close(found, true, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("cap", [0.0, 5.0])
@given(seed=st.integers(0, 1000))
def test_hidden_states_give_the_dense_distribution_up_to_their_bytes(cap: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    head = LinearHead(torch.randn(50, 8, generator=generator), torch.randn(50, generator=generator), 0.5, cap)
    hidden = torch.randn(20, 8, generator=generator) * torch.linspace(0.1, 10, 8) + 1
    row, shared, logits = row_for("hidden", 50, width=8), head_tensors(head, hidden), head.logits(hidden)
    kept = sparsifier_of(row)(logits, torch.zeros(20, dtype=torch.int64)) | {"latent": hidden}
    found = dense_logprobs(listed_targets(row, kept, shared)).double()
    half_ND = shared["std"] * ((hidden - shared["mean"]) / shared["std"]).abs().max(1, keepdim=True).values / 254
    apart_NV = (half_ND * 1.001) @ (0.5 * head.weight_VD).abs().T
    true = torch.log_softmax(logits.double(), -1)
    # a logit moves by its own bound, the normaliser by the largest one at most
    assert ((found - true).abs() <= apart_NV + apart_NV.max(1, keepdim=True).values + 1e-4).all()
    assert (true.exp() * (true - found)).sum(1).mean() < 5e-3


def test_of_tokens_that_tie_at_rank_k_the_lowest_ids_are_kept() -> None:
    found = sparsifier_of(row_for("topk", 30, k=9))(torch.zeros(1, 30), torch.tensor([0]))
    assert found["ids"].tolist() == [list(range(9))]
