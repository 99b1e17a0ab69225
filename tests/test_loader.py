"""The loader: order, ranks, resuming, packing, content."""

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
from logitstore.batch import Batch
from logitstore.cache.order import bucketed, held_out, permuted, salt_of
from logitstore.codecs.answer import normalised
from logitstore.errors import BadInput
from logitstore.loader import Loader
from logitstore.mixture import Mixture, shares
from logitstore.targets import Targets


def visited(batch: Batch) -> list[int]:
    return [int(sample) for sample in batch.samples if sample >= 0]


def epoch(cache: logitstore.Cache, **options: object) -> list[list[int]]:
    return [visited(batch) for batch in Loader(cache, batch_size=5, seed=3, **options)]  # type: ignore[arg-type]


def same(a: Batch, b: Batch) -> bool:
    left, right = a.tensors(), b.tensors()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) if isinstance(left[name], torch.Tensor) else left[name] == right[name]
        for name in left
    )


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
    assert same(Batch.of(tensors), batch)
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


@given(count=st.integers(1, 500), seed=st.integers(0, 2**40), number=st.integers(0, 50))
def test_the_order_is_a_permutation_that_depends_on_seed_and_epoch(count: int, seed: int, number: int) -> None:
    def order_of(seed: int, epoch: int) -> list[int]:
        return permuted(np.arange(count), count, salt_of(seed, epoch, 0)).tolist()  # type: ignore[no-any-return]

    order = order_of(seed, number)
    assert sorted(order) == list(range(count))
    assert order == order_of(seed, number)
    assert order[count // 3 : count // 2] == (
        permuted(np.arange(count // 3, count // 2), count, salt_of(seed, number, 0)).tolist()
    )
    if count > 30:
        assert order != order_of(seed, number + 1)
        assert order != order_of(seed + 1, number)


@pytest.mark.parametrize("count", [1000, 1024, 1025, 100_003])
def test_the_order_is_as_mixed_as_a_random_one(count: int) -> None:
    """Correlation of place and sample, and of neighbours, within four standard errors of none; few fixed points."""
    order = permuted(np.arange(count), count, salt_of(7, 3, 0)).astype(np.float64)
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 4 / np.sqrt(count)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 4 / np.sqrt(count)
    assert (order == np.arange(count)).sum() < 8


def test_a_place_in_an_order_of_billions_is_found_at_once() -> None:
    places = np.array([0, 1, 12_345_678_901, 2**40 - 2])
    found = permuted(places, 2**40 - 1, salt_of(1, 0, 0))
    assert len(set(found.tolist())) == 4
    assert (found < 2**40 - 1).all()


def test_the_order_never_changes_between_releases() -> None:
    assert permuted(np.arange(10), 10, salt_of(0, 0, 0)).tolist() == KNOWN_ORDER
    assert held_out(np.repeat(np.arange(20), 3), 0.1).nonzero()[0].tolist() == KNOWN_HELD_OUT


@given(lengths=st.lists(st.integers(1, 99), min_size=1, max_size=60), batch_size=st.integers(1, 9))
def test_buckets_split_every_sample_into_batches(lengths: list[int], batch_size: int) -> None:
    batches = bucketed(np.arange(len(lengths)), np.array(lengths), batch_size, salt=5)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    assert all(len(batch) <= batch_size for batch in batches)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_rows", [95, 200, 1000, 10**6])
def test_batches_by_rows_hold_every_sample_once_and_about_as_many_rows(
    cache: logitstore.Cache, packed: bool, shuffle: bool, batch_rows: int
) -> None:
    loader = Loader(cache, batch_rows=batch_rows, packed=packed, shuffle=shuffle, seed=1)
    batches = [*loader, *loader]
    assert len(batches) == 2 * len(loader)
    first, second = batches[: len(loader)], batches[len(loader) :]
    for own in (first, second):
        assert sorted(chain.from_iterable(visited(batch) for batch in own)) == list(range(len(cache)))
    longest = int(cache.row_counts().max())
    share = cache.rows / len(first)
    assert longest <= share <= max(batch_rows, longest * 1.2)
    assert all(0 < len(batch.rows) <= share + longest for batch in batches)
    if len(first) > 1:
        assert ([visited(batch) for batch in first] == [visited(batch) for batch in second]) != shuffle


def test_worker_processes_which_would_each_give_everything_are_refused(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput, match="every worker process would give all batches"):
        list(DataLoader(Loader(cache, workers=0), batch_size=None, num_workers=1))


def test_a_sample_longer_than_the_batch_is_named(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput, match="there is a sample of 95 rows"):
        len(Loader(cache, batch_rows=94))


@pytest.mark.parametrize("options", [{"packed": True}, {"batch_rows": 300}, {"batch_rows": 300, "packed": True}, {}])
def test_content_and_order_do_not_depend_on_threads_or_depth(cache: logitstore.Cache, options: dict[str, Any]) -> None:
    plain = list(Loader(cache, seed=5, workers=0, **options))
    for workers, ahead in ((1, 1), (2, 7), (4, 2), (3, 0)):
        again = list(Loader(cache, seed=5, workers=workers, ahead=ahead, **options))
        assert len(again) == len(plain)
        assert all(same(a, b) for a, b in zip(plain, again, strict=True))


def test_mixtures_draw_as_often_as_weights_say_and_resume(cache: logitstore.Cache) -> None:
    def mixture() -> Mixture:
        parts = [Loader(cache, batch_size=6, seed=1), Loader(cache, batch_size=6, samples=np.arange(40), packed=True)]
        return Mixture(parts, [3.0, 1.0], seed=2)

    whole = mixture()
    given_out = [*whole, *whole]
    sources = [batch.source for batch in given_out]
    for one in (sources[: len(whole)], sources[len(whole) :]):
        assert [one.count(0), one.count(1)] == whole.shares
    assert sorted(set(chain.from_iterable(visited(b) for b in given_out[: len(whole)]))) == list(range(len(cache)))
    first = [visited(batch) for batch in given_out if batch.source == 0]
    assert first[: len(Loader(cache, batch_size=6))] == [visited(b) for b in Loader(cache, batch_size=6, seed=1)]
    assert all((batch.position_ids is None) == (batch.source == 0) for batch in given_out)
    stopped = mixture()
    for _ in zip(range(5), stopped, strict=False):
        pass
    gone_on = mixture()
    gone_on.load_state_dict({"batches": 5})
    assert all(same(a, b) for a, b in zip(given_out[5 : len(whole)], gone_on, strict=True))
    ranks = [mixture_of_rank(cache, rank) for rank in range(2)]
    together = [batch for step in zip(*ranks, strict=True) for batch in step if visited(batch)]
    alone = list(mixture_of_rank(cache, 0, 1))
    assert [visited(batch) for batch in together] == [visited(batch) for batch in alone]
    targets = whole.targets(given_out[0])
    assert len(targets) == len(given_out[0].rows)


def mixture_of_rank(cache: logitstore.Cache, rank: int, world: int = 2) -> Mixture:
    parts = [Loader(cache, batch_size=9), Loader(cache, batch_size=4, samples=np.arange(30))]
    return Mixture(parts, [1.0, 1.0], rank=rank, world_size=world)


def test_the_turn_of_a_mixture_is_exact() -> None:
    assert shares([1, 1, 1], 1024) == [342, 341, 341]
    assert shares([0.7, 0.3], 1024) == [717, 307]
    assert shares([0.1, 0.2], 30) == [10, 20]


@pytest.mark.parametrize(("count", "weights"), [(0, []), (1, [1.0, 2.0]), (1, [0.0]), (2, [1.0, 1e-9]), (1, [np.inf])])
def test_mixtures_of_nothing_or_without_weight_are_refused(
    cache: logitstore.Cache, count: int, weights: list[float]
) -> None:
    with pytest.raises(BadInput, match="weights"):
        Mixture([Loader(cache)] * count, weights)


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


def test_an_hour_of_epochs_takes_no_more_memory_than_a_minute(cache: logitstore.Cache) -> None:
    """A batch in 10 ms, so 360,000 of them in an hour; the planning of each is run, and every 60th is read."""
    loader = Loader(cache, batch_size=5, workers=2)
    per_epoch = loader.batches

    def advance(batches: range) -> int:
        for number in batches:
            loader._choose(*divmod(number, per_epoch))
            if number % 60 == 0:
                loader.at(number // per_epoch, number % per_epoch)
        gc.collect()
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1])

    before = advance(range(6_000))
    after = advance(range(6_000, 360_000))
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


KNOWN_ORDER = [6, 7, 1, 4, 3, 0, 2, 9, 5, 8]
KNOWN_HELD_OUT = [6, 7, 8, 24, 25, 26]
