"""A loader that reads a cache by windows of parts: ranks, resuming, what the storage is told, what is refused."""

from __future__ import annotations

import importlib
import re
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.core.order import held_out
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.mixture import Mixture
from logitstore.train.loader.subset import SampleSet
from tests.parts.batches import same, visited
from tests.parts.texts import plan_for

PLUGINS = Path(__file__).parents[2] / "parts" / "plugin"


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache of many parts of seven samples, with features; do not change it."""
    out = tmp_path_factory.mktemp("many") / "cache"
    return dump(plan_for(teacher, texts, out, samples_per_part=7, hidden="1"))


def epoch(cache: logitstore.Cache, **options: Any) -> list[list[int]]:
    return [visited(batch) for batch in Loader(cache, **{"batch_size": 3, "seed": 3, "window_parts": 4} | options)]


@pytest.mark.parametrize(
    "options", [{}, {"packed": True}, {"batch_rows": 300}, {"window_parts": 1}, {"window_parts": 99}]
)
def test_every_sample_comes_once_in_the_same_global_order(
    many_parts: logitstore.Cache, options: dict[str, Any]
) -> None:
    alone = epoch(many_parts, workers=0, **options)
    assert sorted(chain.from_iterable(alone)) == list(range(len(many_parts)))
    for world, workers in ((2, 2), (3, 1)):
        ranks = [epoch(many_parts, rank=rank, world_size=world, workers=workers, **options) for rank in range(world)]
        assert [batch for step in zip(*ranks, strict=True) for batch in step if batch] == alone


@pytest.mark.parametrize("options", [{}, {"batch_rows": 300}])
def test_a_state_of_two_ranks_goes_on_in_the_middle_on_one(
    many_parts: logitstore.Cache, options: dict[str, Any]
) -> None:
    settings: dict[str, Any] = {"batch_size": 3, "seed": 3, "window_parts": 4} | options
    undisturbed = Loader(many_parts, **settings)
    whole = [*undisturbed, *undisturbed]
    readers = [Loader(many_parts, rank=rank, world_size=2, **settings) for rank in range(2)]
    steps = [iter(reader) for reader in readers]
    begun = [next(step) for _ in range(4) for step in steps]
    resumed = Loader(many_parts, **settings)
    resumed.load_state_dict(readers[0].state_dict())
    assert readers[0].state_dict() == {"batches": 8}
    assert all(same(a, b) for a, b in zip(whole, [*begun, *resumed, *resumed], strict=True))


def test_chosen_samples_alone_are_read_and_their_order_does_not_matter(many_parts: logitstore.Cache) -> None:
    kept_S = ~held_out(many_parts.documents(), 0.3)
    kept_S[7:35] = False  # some parts have no sample that is read
    expected = epoch(many_parts, samples=SampleSet(kept_S))
    assert sorted(chain.from_iterable(expected)) == np.flatnonzero(kept_S).tolist()
    assert epoch(many_parts, samples=np.flatnonzero(kept_S)[::-1]) == expected
    with pytest.raises(IndexError, match=r"samples 0 to 100000 of a cache with"):
        Loader(many_parts, samples=np.array([0, 100_000]), window_parts=2)
    with pytest.raises(BadInput, match="no samples to load"):
        Loader(many_parts, samples=np.zeros(0, np.int64), window_parts=2)


def test_mixed_caches_each_have_windows(many_parts: logitstore.Cache, cache: logitstore.Cache) -> None:
    loaders = [Loader(many_parts, batch_size=3, window_parts=2), Loader(cache, batch_size=6, window_parts=1)]
    mixture = Mixture(loaders, [1.0, 1.0], seed=2)
    first = [visited(batch) for batch in mixture if batch.source == 0]
    alone = [visited(batch) for batch in Loader(many_parts, batch_size=3, window_parts=2)]
    assert first[: len(alone)] == alone


def test_held_out_samples_are_judged_window_after_window(many_parts: logitstore.Cache) -> None:
    samples = SampleSet(held_out(many_parts.documents(), 0.5))
    batches = [visited(batch) for batch in evaluation_loader(many_parts, samples, window_parts=3, batch_size=4)]
    read = np.array(list(chain.from_iterable(batches)))
    assert sorted(read.tolist()) == np.asarray(samples).tolist()
    parts = many_parts.places(read)[0]
    present = np.unique(parts)
    windows = -(-len(present) // 3)
    edges = np.arange(windows + 1) * len(present) // windows
    window = np.searchsorted(present[edges[:-1]], parts, side="right")
    assert (np.diff(window) >= 0).all()
    lengths = many_parts.lengths_of(read)
    assert (np.diff(lengths)[np.diff(window) == 0] >= 0).all()


@pytest.fixture
def watched(
    many_parts: logitstore.Cache, monkeypatch: pytest.MonkeyPatch
) -> tuple[logitstore.Cache, list[tuple[str, str]]]:
    """The cache as one of a package logitstore-watched that is installed, and what its storage was asked for."""
    monkeypatch.syspath_prepend(str(PLUGINS))
    seen: list[tuple[str, str]] = importlib.import_module("logitstore_watched").SEEN
    found = logitstore.Cache(f"watched://{many_parts.path}")
    found.column("lengths")
    seen.clear()
    return logitstore.Cache(f"watched://{many_parts.path}"), seen


@pytest.mark.parametrize("workers", [0, 2])
def test_the_storage_is_told_the_parts_of_the_next_window(watched: Any, workers: int) -> None:
    cache, seen = watched
    loader = Loader(cache, batch_size=3, seed=3, window_parts=4, taps=["hidden-1"], workers=workers)
    read: list[int] = []
    for batch in loader:
        parts = cache.places(np.array(visited(batch)))[0].tolist()
        read += [part for part in dict.fromkeys(parts) if part not in read]
    asked = [number_of(name) for what, name in seen if what == "prefetch" and not name.startswith("taps/")]
    of_taps = [number_of(name) for what, name in seen if what == "prefetch" and name.startswith("taps/hidden-1/")]
    assert asked == of_taps
    # each part once, and those of the first window of the next epoch
    assert sorted(asked[: len(cache.part_numbers)]) == cache.part_numbers
    assert len(asked) <= len(cache.part_numbers) + 4
    # four parts at a time, but for a batch on the border of two windows; and each part before it is opened
    assert all(abs(asked.index(part) // 4 - number // 4) <= 1 for number, part in enumerate(read))
    assert sum(asked.index(part) // 4 != number // 4 for number, part in enumerate(read)) < len(read) / 2
    for what, name in seen:
        if what == "open":
            assert seen.index(("prefetch", name)) < seen.index((what, name))


def test_a_reader_that_goes_on_asks_for_the_window_that_it_is_in(watched: Any) -> None:
    cache, seen = watched
    whole = Loader(cache, batch_size=3, seed=3, window_parts=4, workers=0)
    for _ in zip(range(20), whole, strict=False):
        pass
    seen.clear()
    gone_on = Loader(cache, batch_size=3, seed=3, window_parts=4, workers=0)
    gone_on.load_state_dict(whole.state_dict())
    batch = next(iter(gone_on))
    asked = [number_of(name) for what, name in seen if what == "prefetch"]
    assert 6 <= len(asked) <= 8
    assert set(cache.places(np.array(visited(batch)))[0].tolist()) <= set(asked)


def test_without_windows_nothing_is_asked_for(watched: Any, many_parts: logitstore.Cache) -> None:
    cache, seen = watched
    for _ in zip(range(5), Loader(cache, batch_size=3), strict=False):
        pass
    assert {what for what, _ in seen} == {"open"}
    many_parts.prefetch([0, 1])  # the local disk has nothing to fetch


def number_of(name: str) -> int:
    found = re.search(r"parts/(\d+)$", name)
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window_parts": 0}, r"window_parts=0: must be at least 1\."),
        ({"shuffle": False}, r"window_parts=2 with shuffle=False: one of them decides the order\. Leave one out\."),
        ({"order": lambda epoch, places: places}, r"window_parts=2 with an order of your own: "),
        ({"epoch_samples": 5}, r"window_parts=2 with epoch_samples: "),
    ],
)
def test_what_does_not_go_together_is_refused(
    many_parts: logitstore.Cache, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        Loader(many_parts, **{"window_parts": 2} | options)
