"""The order of samples, buckets and batches."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.core.order import bucketed, held_out, permuted, salt_of
from logitstore.train.loader.loader import Loader
from tests.parts.batches import visited


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


KNOWN_ORDER = [6, 7, 1, 4, 3, 0, 2, 9, 5, 8]
KNOWN_HELD_OUT = [6, 7, 8, 24, 25, 26]
