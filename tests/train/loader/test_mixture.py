"""Mixtures of caches."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.mixture import Mixture, shares
from tests.parts.batches import same, visited


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
