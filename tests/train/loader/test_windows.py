"""The order by windows of parts: a permutation that reads few parts at a time, and does not depend on who asks."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterable
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from logitstore.core.order import permuted, permuted_within
from logitstore.core.types import Array
from logitstore.train.loader.order import OrderedStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.windows import Announced, PartWindows, windows_between

COUNTS = st.lists(st.integers(0, 30), min_size=1, max_size=25).filter(any)


def windows_of(counts: list[int], together: int, seed: int = 3) -> PartWindows:
    return PartWindows(np.arange(len(counts)) * 2, np.array(counts), together=together, seed=seed)


@given(COUNTS, st.integers(1, 30), st.integers(0, 2**40), st.integers(0, 9), st.data())
def test_an_epoch_is_a_permutation_in_windows_of_whole_parts(
    counts: list[int], together: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    windows, total = windows_of(counts, together, seed), sum(counts)
    order, starts = windows.places(epoch, np.arange(total)), windows.starts(epoch).tolist()
    assert sorted(order.tolist()) == list(range(total))
    part_of_place = np.repeat(np.arange(len(counts)) * 2, counts)
    assert (starts[0], starts[-1]) == (0, total)
    read: list[int] = []
    sizes = []
    for window, (start, stop) in enumerate(pairwise(starts)):
        first_needed = list(dict.fromkeys(part_of_place[order[start:stop]].tolist()))
        found = windows.parts(epoch, window)
        looked_at = set(part_of_place[order[start : start + 64 * len(found)]].tolist())
        assert found[: len(looked_at)] == first_needed[: len(looked_at)]
        assert sorted(found) == sorted(first_needed)
        sizes.append(len(found))
        read += found
    assert sorted(read) == [2 * part for part, count in enumerate(counts) if count]
    assert max(sizes) <= together
    assert max(sizes) - min(sizes) <= 1
    # a pure function: any places in any order, asked of another object
    some = np.array(data.draw(st.lists(st.integers(0, total - 1), max_size=20)), np.int64)
    assert np.array_equal(windows_of(counts, together, seed).places(epoch, some), order[some])


@given(
    st.lists(st.tuples(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.floats(0, 1, exclude_max=True)), min_size=1)
)
def test_places_of_many_groups_go_where_each_group_sends_them(groups: list[tuple[int, int, float]]) -> None:
    places = np.array([int(count * share) for count, _, share in groups])
    counts, salts = np.array([each[0] for each in groups]), np.array([each[1] for each in groups], np.uint64)
    expected = [permuted(places[n : n + 1], groups[n][0], groups[n][1])[0] for n in range(len(groups))]
    assert permuted_within(places, counts, salts).tolist() == expected


@given(COUNTS, st.integers(1, 6), st.data())
def test_a_set_and_an_array_of_samples_have_the_same_order(
    counts: list[int], together: int, data: st.DataObject
) -> None:
    total = sum(counts)
    is_chosen_S = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)), np.bool_)
    edges = np.concatenate([[0], np.cumsum(counts)])
    numbers = np.arange(len(counts))
    samples, chosen = np.flatnonzero(is_chosen_S), SampleSet(is_chosen_S)
    of_array = windows_between(numbers, edges, samples, together, 1)
    of_set = windows_between(numbers, edges, chosen, together, 1)
    places = np.arange(len(samples))
    assert np.array_equal(of_array.places(2, places), of_set.places(2, places))
    assert of_array.starts(2).tolist() == of_set.starts(2).tolist()


class Lengths:
    """Samples of which only the lengths are known."""

    path = Path("lengths")

    def __init__(self, lengths_S: Array) -> None:
        self._lengths_S = lengths_S

    def __len__(self) -> int:
        return len(self._lengths_S)

    def column(self, name: str) -> Array:
        return self._lengths_S

    def lengths_of(self, samples_M: Array) -> Array:
        return self._lengths_S[samples_M]


class Numbers(OrderedStream):
    """A stream of which only the numbers of the samples are asked."""

    def targets(self, batch: Any) -> Any:
        raise NotImplementedError

    def _make(self, epoch: int, number: int) -> Any:
        raise NotImplementedError

    def epoch(self, epoch: int) -> list[list[int]]:
        return [self.choose(epoch, number).tolist() for number in range(self.batches)]


def stream_of(counts: list[int], windows: PartWindows, **options: Any) -> Numbers:
    lengths = np.random.default_rng(1).integers(1, 40, sum(counts))
    place: dict[str, Any] = {"rank": 0, "world_size": 1, "workers": 0, "ahead": None, "pin_memory": False}
    usual: dict[str, Any] = {"batch_size": 4, "batch_rows": None, "shuffle": True, "order": None, "packed": False}
    return Numbers(Lengths(lengths), samples=None, mixed=windows, seed=3, **usual | place | options)


def most_alive(parts: Iterable[set[int]]) -> int:
    """Return how many parts are at most in use at one time, from the first batch that reads them to the last one."""
    parts = list(parts)
    first = {part: number for number, each in reversed(list(enumerate(parts))) for part in each}
    last = {part: number for number, each in enumerate(parts) for part in each}
    change = np.bincount(list(first.values()), minlength=len(parts) + 1)
    change -= np.bincount(np.array(list(last.values())) + 1, minlength=len(parts) + 1)
    return int(np.cumsum(change).max())


@given(
    st.lists(st.integers(1, 250), min_size=1, max_size=10),
    st.integers(1, 4),
    st.sampled_from([{"batch_size": 4}, {"batch_size": 9}, {"batch_rows": 50}, {"batch_rows": 90}]),
    st.booleans(),
)
def test_a_pass_uses_no_more_parts_at_a_time_than_two_windows_have(
    counts: list[int], together: int, options: dict[str, Any], packed: bool
) -> None:
    windows, total = windows_of(counts, together), sum(counts)
    stream = stream_of(counts, windows, **{"packed": packed} | options)
    part_of = np.repeat(np.arange(len(counts)), counts)
    for epoch in (0, 1):
        # a batch that is larger than a window reads from more windows
        assume(np.diff(windows.starts(epoch)).min() >= max(options.values()))
        batches = stream.epoch(epoch)
        assert sorted(chain.from_iterable(batches)) == list(range(total))
        assert all(batches)
        assert most_alive({int(part_of[sample]) for sample in batch} for batch in batches) <= 2 * together


@given(COUNTS, st.integers(1, 6), st.integers(1, 9), st.booleans())
def test_every_batch_size_reads_the_same_samples_in_a_window(
    counts: list[int], together: int, batch_size: int, packed: bool
) -> None:
    windows = windows_of(counts, together)
    starts = windows.starts(0)
    batches = stream_of(counts, windows, batch_size=batch_size, packed=packed).epoch(0)
    assert sorted(chain.from_iterable(batches)) == list(range(sum(counts)))
    read = np.array(list(chain.from_iterable(batches)))
    order = windows.places(0, np.arange(sum(counts)))
    for start, stop in pairwise(starts):
        # only a batch on the border of two windows may hold samples of both
        inner = slice(-(-start // batch_size) * batch_size, stop // batch_size * batch_size)
        assert set(read[inner].tolist()) <= set(order[start : inner.stop + batch_size].tolist())
        if packed or inner.stop == stop:
            assert sorted(read[inner].tolist()) == sorted(order[inner].tolist())


def test_buckets_of_windows_have_little_padding() -> None:
    """Batches of a window are of similar length, as those of a full mix are."""
    counts = [300] * 8
    lengths = np.random.default_rng(1).integers(1, 40, sum(counts))
    for options in ({"batch_size": 4}, {"batch_rows": 80}):
        batches = stream_of(counts, windows_of(counts, 2), **options).epoch(0)
        padded = sum(max(lengths[batch]) * len(batch) for batch in batches)
        assert padded < 1.2 * lengths.sum()
        longest = np.array([max(lengths[batch]) for batch in batches], np.float64)
        assert abs(np.corrcoef(longest[1:], longest[:-1])[0, 1]) < 0.25


def test_one_window_of_all_parts_is_a_full_mix() -> None:
    """Chi-square of place against sample over many epochs, against its mean and deviation for a uniform order."""
    counts, epochs = [5, 1, 9, 3, 6], 600
    windows, total = windows_of(counts, 5), sum(counts)
    seen = np.zeros((total, total))
    for epoch in range(epochs):
        seen[np.arange(total), windows.places(epoch, np.arange(total))] += 1
    freedom = (total - 1) ** 2
    chi_square = ((seen - epochs / total) ** 2 / (epochs / total)).sum()
    assert abs(chi_square - freedom) < 4 * np.sqrt(2 * freedom)


def test_parts_meet_in_other_windows_in_every_epoch() -> None:
    """Chi-square of the window against the part over many epochs; and each pair of parts shares a window as often."""
    windows, epochs, parts = windows_of([4] * 12, 3), 600, 12
    seen, pairs = np.zeros((4, parts)), np.zeros((parts, parts))
    for epoch in range(epochs):
        for window in range(4):
            read = np.array(windows.parts(epoch, window)) // 2
            seen[window, read] += 1
            pairs[np.ix_(read, read)] += 1
    freedom = 3 * (parts - 1)
    assert abs(((seen - epochs / 4) ** 2 / (epochs / 4)).sum() - freedom) < 4 * np.sqrt(2 * freedom)
    met = pairs[np.triu_indices(parts, 1)] / epochs
    assert abs(met - 2 / 11).max() < 4 * np.sqrt(2 / 11 * 9 / 11 / epochs)


def test_windows_of_one_part_read_part_after_part() -> None:
    counts = [7, 0, 30, 2, 11]
    windows = windows_of(counts, 1)
    part_of = np.repeat(np.arange(5), counts)
    read = part_of[windows.places(0, np.arange(50))]
    assert (np.diff(read) != 0).sum() == 3
    assert [windows.parts(0, window)[0] // 2 for window in range(4)] == list(dict.fromkeys(read.tolist()))


def test_the_order_never_changes_between_releases() -> None:
    windows = PartWindows(np.arange(5), np.array([2, 3, 0, 4, 3]), together=2, seed=0)
    assert windows.places(0, np.arange(12)).tolist() == KNOWN_ORDERS[0]
    assert windows.places(1, np.arange(12)).tolist() == KNOWN_ORDERS[1]
    assert [windows.parts(0, window) for window in range(2)] == KNOWN_PARTS
    assert stream_of([9, 4, 7], windows_of([9, 4, 7], 2), batch_size=3).epoch(0) == KNOWN_BATCHES
    assert stream_of([9, 4, 7], windows_of([9, 4, 7], 2), batch_rows=99).epoch(0) == KNOWN_BY_ROWS


def test_a_billion_samples_take_memory_for_the_parts_alone() -> None:
    parts = 20_000
    windows = PartWindows(np.arange(parts), np.full(parts, 50_000), together=64, seed=0)
    tracemalloc.start()
    found = windows.places(0, np.arange(600_000_000, 600_000_256))
    window = int(np.searchsorted(windows.starts(0), 600_000_000, side="right")) - 1
    assert {number // 50_000 for number in found.tolist()} <= set(windows.parts(0, window))
    assert tracemalloc.get_traced_memory()[1] < 100 * parts
    tracemalloc.stop()


KNOWN_ORDERS = [[1, 5, 0, 7, 8, 6, 9, 3, 11, 2, 10, 4], [9, 1, 11, 0, 10, 2, 5, 7, 4, 3, 8, 6]]
KNOWN_PARTS = [[0, 3], [4, 1]]
KNOWN_BATCHES = [[2, 10, 3], [12, 9, 11], [15, 0, 1], [4, 19, 18], [17, 16, 13], [6, 7], [5, 8, 14]]
KNOWN_BY_ROWS = [[12, 9, 11, 10, 4, 19, 18, 5, 8], [2, 13, 6], [14, 15, 0, 1, 17, 16], [7, 3]]


def test_a_thread_reads_no_part_of_a_window_before_it_was_asked_for() -> None:
    """One thread is held up while it asks; another one is in the same window, and a third one at the border of the next."""
    windows = windows_of([7] * 8, together=2)
    starts = windows.starts(0).tolist()
    begun, may_go_on = threading.Event(), threading.Event()
    asked: list[list[int]] = []

    def ask(parts: list[int]) -> None:
        begun.set()
        assert may_go_on.wait(60)
        asked.append(parts)

    announced = Announced(windows, ask, goes_on=False)
    known: dict[int, list[list[int]]] = {}

    def read(place: int) -> None:
        announced.reached(0, place)
        known[place] = list(asked)

    readers = [threading.Thread(target=read, args=(place,)) for place in (0, 1, starts[1])]
    readers[0].start()
    assert begun.wait(60)
    for reader in readers[1:]:
        reader.start()
    readers[1].join(0.2)  # long enough to go by
    may_go_on.set()
    for reader in readers:
        reader.join()
    assert asked == [windows.parts(0, window) for window in range(3)]
    assert all(windows.parts(0, window) in known[place] for place, window in ((0, 0), (1, 0), (starts[1], 1)))
