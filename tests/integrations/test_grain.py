"""A cache as a source of NumPy arrays: its shapes, its numbers, and what grain does with it."""

from __future__ import annotations

import pickle

import grain
import numpy as np
import pytest
import torch

import logitstore
from logitstore.errors import BadInput
from logitstore.integrations.grain import Source
from logitstore.targets.dense import dense_logprobs
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives import lumped_kl


def test_a_sample_holds_the_rows_of_the_loader_at_their_positions(small_preset: logitstore.Cache) -> None:
    source = Source(small_preset)
    assert len(source) == len(small_preset)
    loader = Loader(small_preset, batch_size=1, shuffle=False)
    for number in (0, len(source) - 1):
        found, batch = source[number], loader.at(0, number)
        targets, places = loader.targets(batch), batch.rows.numpy()
        assert batch.input_ids is not None
        length = batch.input_ids.shape[1]
        assert found["input_ids"][:length].tolist() == batch.input_ids[0].tolist()
        assert found["attention_mask"].sum() == length
        assert np.flatnonzero(found["row_mask"]).tolist() == places.tolist()
        assert found["labels"][places].tolist() == batch.gold.tolist()
        assert (found["labels"][~found["row_mask"]] == -100).all()
        np.testing.assert_array_equal(found["teacher_ids"][places], targets.ids_NK.numpy())  # type: ignore[union-attr]
        total = np.exp(found["teacher_logprobs"]).sum(-1) + np.exp(found["teacher_tail_logmass"])
        np.testing.assert_allclose(total, found["row_mask"], atol=1e-5)
        assert found["teacher_logprobs"].shape == (source.length, source.k)
        logits_NV = torch.randn(len(places), small_preset.manifest.teacher.vocabulary)
        expected = lumped_kl(logits_NV, targets).numpy()  # type: ignore[arg-type]
        np.testing.assert_allclose(
            _lumped(torch.log_softmax(logits_NV, -1).numpy(), found, places), expected, rtol=1e-4
        )


def _lumped(logprobs_NV: np.ndarray, found: dict[str, np.ndarray], places: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """The lumped KL of the rows of a sample, from its arrays alone."""
    ids, teacher, tail = (found[f"teacher_{name}"][places] for name in ("ids", "logprobs", "tail_logmass"))
    listed = np.take_along_axis(logprobs_NV, ids, -1).astype(np.float64)
    rest = np.log1p(-np.exp(listed).sum(-1))
    return np.asarray((np.exp(teacher) * (teacher - listed)).sum(-1) + np.exp(tail) * (tail - rest))


@pytest.mark.parametrize("k", [1, 5, 40])
def test_fewer_or_more_tokens_than_are_listed_are_the_most_probable_ones(
    small_preset: logitstore.Cache, k: int
) -> None:
    found = Source(small_preset, k=k)[3]
    loader = Loader(small_preset, batch_size=1, shuffle=False)
    top = dense_logprobs(loader.targets(loader.at(0, 3))).topk(k)  # type: ignore[arg-type]
    np.testing.assert_allclose(found["teacher_logprobs"][found["row_mask"]], top.values, atol=1e-5)
    rest = np.log1p(-np.exp(top.values.double().logsumexp(-1).numpy()))
    np.testing.assert_allclose(found["teacher_tail_logmass"][found["row_mask"]], rest, atol=1e-3)


def test_grain_shuffles_batches_and_resumes(cache: logitstore.Cache) -> None:
    source = pickle.loads(pickle.dumps(Source(cache.path, samples=np.arange(20), length=100)))
    batches = iter(grain.MapDataset.source(source).shuffle(seed=0).batch(4).to_iter_dataset())
    assert next(batches)["teacher_ids"].shape == (4, 100, source.k)
    state = batches.get_state()
    second = next(batches)
    batches.set_state(state)
    again = next(batches)
    assert all(np.array_equal(again[name], second[name]) for name in second)
    assert repr(source) == repr(Source(cache, samples=np.arange(20), length=100))


def test_what_cannot_be_given_is_refused(
    cache: logitstore.Cache, image_cache: logitstore.Cache, teacher_scores: logitstore.Cache
) -> None:
    with pytest.raises(BadInput, match="length=10: there is a sample of 96 tokens"):
        Source(cache, length=10)
    with pytest.raises(BadInput, match="no cache of texts"):
        Source(image_cache)
    with pytest.raises(BadInput, match="keeps scores only"):
        Source(teacher_scores)
