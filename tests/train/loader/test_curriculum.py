"""Orders of a curriculum."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loader.curriculum import Curriculum, paced, share_of
from logitstore.train.loader.loader import Loader


@given(count=st.integers(1, 60), start=st.floats(0.01, 1), seed=st.integers(0, 99), epoch=st.integers(0, 3))
def test_easy_first_and_hard_first_are_permutations_and_pace_the_first_epoch(
    count: int, start: float, seed: int, epoch: int
) -> None:
    score = np.random.default_rng(seed).permutation(count).astype(float)
    for name in ("easy-first", "hard-first"):
        order = Curriculum.of(name, score, seed, start)
        found = order(epoch, np.arange(count))
        assert sorted(found.tolist()) == list(range(count))
        rank = score[found] if name == "easy-first" else count - 1 - score[found]
        places = np.arange(count)
        if epoch == 0:
            assert (rank < np.ceil(places + start * (count - places))).all()
        pieces = np.concatenate([order(epoch, places[: count // 2]), order(epoch, places[count // 2 :])])
        np.testing.assert_array_equal(found, pieces)


def test_a_paced_epoch_is_mixed_and_another_one_each_seed() -> None:
    orders = [paced(200, 0.25, salt) for salt in range(3)]
    assert all((np.diff(order) < 0).sum() > 40 for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert np.mean([order[:50].mean() for order in orders]) < np.mean([order[-50:].mean() for order in orders])


def test_a_cycle_reads_the_easiest_share_only_as_often_as_an_epoch_is_long() -> None:
    assert [share_of(epoch, 0.25) for epoch in range(6)] == [0.25, 0.5, 1.0, 0.5, 0.25, 0.5]
    assert [share_of(epoch, 0.3) for epoch in range(5)] == [0.3, 0.6, 1.0, 0.6, 0.3]
    assert [share_of(epoch, 1.0) for epoch in range(3)] == [1.0] * 3
    score = np.random.default_rng(0).random(41)
    order = Curriculum.of("cyclical", score, 3, 0.25)
    easiest = set(np.argsort(score)[:11].tolist())
    counts = Counter(order(0, np.arange(41)).tolist())
    assert set(counts) == easiest
    assert set(counts.values()) == {3, 4}
    assert sorted(order(2, np.arange(41)).tolist()) == list(range(41))


def test_equal_scores_go_by_number_and_unknown_ones_are_hardest() -> None:
    order = Curriculum.of("easy-first", np.array([1.0, np.nan, 1.0, 0.0]), 0, 0.1)
    assert order.ranked_S.tolist() == [3, 0, 2, 1]


def test_a_curriculum_is_read_in_its_order(cache: logitstore.Cache) -> None:
    chosen = np.arange(10, 70)
    order = Curriculum.of("easy-first", cache.nll()[chosen], 4, 0.2)
    found = [s for batch in Loader(cache, samples=chosen, batch_size=7, order=order) for s in batch.samples.tolist()]
    assert found == chosen[order(0, np.arange(60))].tolist()
    with pytest.raises(BadInput, match="batch_size only"):
        Loader(cache, batch_rows=1000, order=order)
