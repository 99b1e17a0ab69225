"""The loader: ranks, resuming, packing, content."""

from __future__ import annotations

import gc
import warnings
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import logitstore
from logitstore.core.order import held_out
from logitstore.errors import BadInput
from logitstore.format.codecs.answer import normalised
from logitstore.targets.targets import Targets
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from tests.parts.batches import same, visited
from tests.parts.marks import rarely


def epoch(cache: logitstore.Cache, **options: object) -> list[list[int]]:
    return [visited(batch) for batch in Loader(cache, batch_size=5, seed=3, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_every_sample_comes_once_in_the_same_global_order(
    cache: logitstore.Cache, packed: bool, world: int, workers: int
) -> None:
    alone = epoch(cache, packed=packed, workers=0)
    ranks = [epoch(cache, packed=packed, workers=workers, rank=rank, world_size=world) for rank in range(world)]
    assert len({len(steps) for steps in ranks}) == 1
    together = [steps for step in zip(*ranks, strict=True) for steps in step if steps]
    assert together == alone
    assert sorted(chain.from_iterable(alone)) == list(range(len(cache)))
    assert list(chain.from_iterable(alone)) != list(range(len(cache)))


def test_a_rank_without_a_batch_gets_one_whose_rows_do_not_count(cache: logitstore.Cache) -> None:
    whole = Loader(cache, batch_size=5)
    world = whole.batches - 1
    last = list(Loader(cache, batch_size=5, rank=1, world_size=world))[-1]
    assert not last.row_mask.any()
    assert (last.samples == -1).all()
    assert list(Loader(cache, batch_size=5, rank=0, world_size=world))[-1].row_mask.all()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_reader_stopped_after_seven_batches_goes_on_with_the_eighth(cache: logitstore.Cache, workers: int) -> None:
    whole = list(Loader(cache, batch_size=3, seed=1, workers=workers))
    reader = Loader(cache, batch_size=3, seed=1, workers=workers)
    first = []
    for batch in reader:
        first.append(batch)
        if len(first) == 7:
            break
    state = reader.state_dict()
    assert state == {"batches": 7}
    resumed = Loader(cache, batch_size=3, seed=1, workers=workers)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert len(rest) == len(whole) - 7
    assert all(same(a, b) for a, b in zip(whole, first + rest, strict=True))


def test_a_state_saved_by_two_ranks_resumes_on_three(cache: logitstore.Cache) -> None:
    whole = epoch(cache)
    readers = [Loader(cache, batch_size=5, seed=3, rank=rank, world_size=2) for rank in range(2)]
    begun = [iter(reader) for reader in readers]
    seen = [visited(next(reader)) for _ in range(2) for reader in begun]
    state = readers[0].state_dict()
    resumed = [Loader(cache, batch_size=5, seed=3, rank=rank, world_size=3) for rank in range(3)]
    for reader in resumed:
        reader.load_state_dict(state)
    rest = [visited(batch) for step in zip(*resumed, strict=True) for batch in step]
    assert seen + [batch for batch in rest if batch] == whole


def test_the_next_epoch_has_another_order_and_a_state_of_its_own(cache: logitstore.Cache) -> None:
    reader = Loader(cache, batch_size=5, seed=3)
    first = [visited(batch) for batch in reader]
    assert reader.state_dict() == {"batches": len(first)}
    second = [visited(batch) for batch in reader]
    assert sorted(chain.from_iterable(first)) == sorted(chain.from_iterable(second))
    assert first != second
    assert visited(reader.at(1, 0)) == second[0]


def test_a_batch_holds_what_the_cache_holds(cache: logitstore.Cache) -> None:
    batch = next(iter(Loader(cache, batch_size=6, seed=5)))
    flat = batch.input_ids.flatten()
    row = 0
    for line, sample in enumerate(batch.samples.tolist()):
        found = cache[sample]
        length = len(found.sample.tokens_T)
        assert batch.input_ids[line, :length].tolist() == found.sample.tokens_T.tolist()
        assert batch.attention_mask is not None
        assert batch.attention_mask[line].sum() == length
        rows = slice(row, row + found.sample.rows)
        assert (batch.rows[rows] - line * batch.input_ids.shape[1]).tolist() == found.sample.positions_N.tolist()
        assert batch.gold[rows].tolist() == found.sample.gold_N.tolist()
        assert torch.equal(batch.gold[rows], flat[batch.rows[rows] + 1])
        assert batch.answer.keys() == found.answer.fields.keys()
        for name, stored in found.answer.fields.items():
            assert torch.equal(batch.answer[name][rows], torch.from_numpy(np.array(stored))), name
        assert batch.gold_logprob[rows].tolist() == found.answer["gold_logprob"].tolist()
        assert batch.entropy[rows].tolist() == found.answer["entropy"].tolist()
        row = rows.stop
    assert row == len(batch.rows)


def test_targets_hold_what_the_batch_holds_and_sum_to_one(cache: logitstore.Cache) -> None:
    loader = Loader(cache, batch_size=16)
    for batch in loader:
        targets = loader.targets(batch)
        assert isinstance(targets, Targets)
        assert torch.equal(targets.ids_NK, batch.answer["ids"].long())
        torch.testing.assert_close(targets.logprobs_NK, batch.answer["logprobs"].float(), atol=6e-3, rtol=0)
        torch.testing.assert_close(targets.tail_logmass_N, batch.answer["tail_logmass"], atol=6e-3, rtol=0)
        mass = targets.logprobs_NK.double().exp().sum(-1) + targets.tail_logmass_N.double().exp()
        torch.testing.assert_close(mass, torch.ones_like(mass), atol=2e-6, rtol=0)


def test_a_batch_taken_apart_and_put_together_is_the_same(cache: logitstore.Cache) -> None:
    batch = next(iter(Loader(cache, batch_size=3)))
    tensors = batch.tensors()
    assert tensors.keys() >= {f"answer.{name}" for name in cache.manifest.fields}
    assert same(Batch(tensors), batch)
    assert same(batch.to("cpu"), batch)


def test_decoding_leaves_rows_without_a_tail_and_impossible_tokens_alone() -> None:
    with np.errstate(divide="ignore"):
        stored = np.log(np.array([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], np.float32))
    tail = np.full(2, -np.inf, np.float32)
    assert np.exp(normalised(stored, tail)[0]).sum(1) == pytest.approx([1, 1])
    assert np.isneginf(normalised(stored, tail)[0][1, 1:]).all()


def test_packed_lines_hold_the_same_rows_with_less_padding(cache: logitstore.Cache) -> None:
    padded = list(Loader(cache, batch_size=24, seed=3))
    packed = list(Loader(cache, batch_size=24, seed=3, packed=True))
    assert sum(batch.input_ids.numel() for batch in packed) < sum(batch.input_ids.numel() for batch in padded)
    assert sum(len(batch.rows) for batch in packed) == sum(len(batch.rows) for batch in padded) == cache.rows
    for batch in packed:
        assert batch.attention_mask is None
        assert batch.position_ids is not None
        tokens = batch.input_ids.flatten()
        assert torch.equal(batch.gold, tokens[batch.rows + 1])
        assert len(batch.rows.unique()) == len(batch.rows)
        row = 0
        for sample in batch.samples.tolist():
            found = cache[sample]
            rows = batch.rows[row : row + found.sample.rows]
            assert batch.position_ids.flatten()[rows].tolist() == found.sample.positions_N.tolist()
            row += found.sample.rows


def test_bucketed_batches_hold_samples_of_similar_length(cache: logitstore.Cache) -> None:
    def padding(batches: list[Batch]) -> float:
        return sum(float((batch.attention_mask == 0).sum()) for batch in batches if batch.attention_mask is not None)

    plain = np.random.default_rng(0).permutation(len(cache))
    assert padding(list(Loader(cache, batch_size=6))) < padding(
        list(Loader(cache, batch_size=6, samples=plain, shuffle=False))
    )


def test_worker_processes_which_would_each_give_everything_are_refused(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput, match="every worker process would give all batches"):
        list(DataLoader(Loader(cache, workers=0), batch_size=None, num_workers=1))


def test_a_sample_longer_than_the_batch_is_named(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput, match="there is a sample of 95 rows"):
        len(Loader(cache, batch_rows=94))


@pytest.mark.parametrize(
    "options", [rarely({"packed": True}), rarely({"batch_rows": 300}), {"batch_rows": 300, "packed": True}, {}]
)
def test_content_and_order_do_not_depend_on_threads_or_depth(cache: logitstore.Cache, options: dict[str, Any]) -> None:
    plain = list(Loader(cache, seed=5, workers=0, **options))
    for workers, ahead in ((1, 1), (2, 7), (4, 2), (3, 0)):
        again = list(Loader(cache, seed=5, workers=workers, ahead=ahead, **options))
        assert len(again) == len(plain)
        assert all(same(a, b) for a, b in zip(plain, again, strict=True))


def test_it_is_a_data_set_for_pytorch_and_its_state_is_kept_by_stateful_loaders(cache: logitstore.Cache) -> None:
    plain = [visited(batch) for batch in Loader(cache, batch_size=6, seed=4)]
    assert [visited(b) for b in DataLoader(Loader(cache, batch_size=6, seed=4), batch_size=None)] == plain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchdata.stateful_dataloader import StatefulDataLoader  # noqa: PLC0415

        first = StatefulDataLoader(Loader(cache, batch_size=6, seed=4, workers=2), batch_size=None)
        begun = iter(first)
        assert [visited(next(begun)) for _ in range(4)] == plain[:4]
        second = StatefulDataLoader(Loader(cache, batch_size=6, seed=4), batch_size=None)
        second.load_state_dict(first.state_dict())
        assert [visited(batch) for batch in second] == plain[4:]


@pytest.mark.parametrize("batches", [20_000, pytest.param(360_000, marks=pytest.mark.exhaustive)])
def test_an_hour_of_epochs_takes_no_more_memory_than_a_minute(cache: logitstore.Cache, batches: int) -> None:
    """A batch in 10 ms, so 360,000 of them in an hour; the planning of each is run, and every 60th is read."""
    loader = Loader(cache, batch_size=5, workers=2)
    per_epoch = loader.batches

    def advance(batches: range) -> int:
        for number in batches:
            loader.choose(*divmod(number, per_epoch))
            if number % 60 == 0:
                loader.at(number // per_epoch, number % per_epoch)
        gc.collect()
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    before = advance(range(6_000))
    after = advance(range(6_000, batches))
    assert after - before < 8 * 1024  # KiB


@given(documents=st.integers(1, 40), windows=st.integers(1, 4), fraction=st.floats(0.01, 0.9))
def test_whole_documents_are_held_out_and_some_are_left(documents: int, windows: int, fraction: float) -> None:
    of_sample = np.repeat(np.arange(documents), windows)
    kept = held_out(of_sample, fraction)
    if documents > 1:
        assert all(len(set(kept[of_sample == document])) == 1 for document in range(documents))
        assert 0 < kept.sum() < len(kept)
    elif windows > 1:
        assert 0 < kept.sum() < windows


def test_loading_nothing_or_nonsense_is_refused(cache: logitstore.Cache) -> None:
    for options in ({"samples": np.zeros(0, int)}, {"batch_size": 0}, {"rank": 2, "world_size": 2}, {"workers": -1}):
        with pytest.raises(BadInput):
            Loader(cache, **options)  # type: ignore[arg-type]
