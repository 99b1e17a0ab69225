"""However many parts a cache and its taps have, a process maps only so many of their files."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from logitstore.dump.dump import dump
from logitstore.store.cache import COLUMNS, Cache
from logitstore.store.maps import MAPS, MOST, USUAL_LIMIT, map_limit
from logitstore.store.samples import PartSamples
from tests.parts.linked import linked_cache
from tests.parts.taps import small_taps_plan

TAPS = ["hidden-1", "final"]
PARTS = 60


def on_their_way(batch_size: int) -> int:
    """What three threads hold beyond the budget: the samples of each part of a batch, and the rows of one."""
    return 3 * (batch_size + 8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> Path:
    """A cache of one part, with taps of two fields each."""
    out = tmp_path_factory.mktemp("source") / "cache"
    return dump(small_taps_plan(teacher, texts, out, limit=2, hidden="0,1,final", qkv="2", tap_codec="int8")).path


@pytest.fixture(scope="module")
def linked(tmp_path_factory: pytest.TempPathFactory, source: Path) -> Path:
    folder = tmp_path_factory.mktemp("linked") / "cache"
    linked_cache(source, folder, PARTS)
    return folder


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """Let a process have 20 maps for caches."""
    gc.collect()
    monkeypatch.setattr(MAPS, "most", 20)
    return 20


@pytest.fixture
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], int]:
    if not Path("/proc/self/maps").exists():
        pytest.skip("this system does not list the maps of a process")
    return lambda folder: sum(str(folder) in line for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shuffled_epoch_maps_no_more_files_than_the_budget(
    linked: Path, few: int, workers: int, mapped: Callable[[Path], int]
) -> None:
    cache = Cache(linked)
    loader = cache.loader(batch_size=4, seed=1, taps=TAPS, workers=workers)
    alone = Cache(linked)
    most, seen = 0, []
    for batch in loader:
        most = max(most, mapped(linked))
        seen += batch.samples.tolist()
        index = int(batch.samples[0])
        rows = int(batch.counts[0])
        assert torch.equal(batch.answer["entropy"][:rows], torch.from_numpy(alone[index].answer["entropy"].copy()))
        part, number = alone.locate(index)
        stored = alone.taps["final"].part(part.number)["values"][part.span(number)]
        assert np.array_equal(batch.features["final/values"][:rows].numpy(), stored)
    assert sorted(seen) == list(range(len(cache)))
    assert MAPS.used <= few
    assert few // 2 < most <= few + on_their_way(4)


@pytest.mark.parametrize("packed", [False, True])
def test_a_shuffled_epoch_needs_hardly_any_descriptors(
    linked: Path, few: int, packed: bool, mapped: Callable[[Path], int]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 16, hard))
    try:
        cache = Cache(linked)
        seen, most, longest = [], 0, 0
        for batch in cache.loader(batch_size=4, seed=1, taps=TAPS, workers=2, packed=packed):
            seen += batch.samples.tolist()
            most, longest = max(most, mapped(linked)), max(longest, len(batch.samples))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert sorted(seen) == list(range(len(cache)))
    assert most <= few + on_their_way(longest)


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_of_all_parts_keeps_the_maps_of_few(
    linked: Path, few: int, column: str, mapped: Callable[[Path], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 0

    def samples_of(self: Cache, number: int) -> PartSamples:
        nonlocal most
        most = max(most, mapped(linked))
        return opened(self, number)

    opened = Cache.samples_of
    monkeypatch.setattr(Cache, "samples_of", samples_of)
    cache = Cache(linked)
    monkeypatch.setattr(type(cache.index), "column", lambda self, name: None)
    assert len(cache.column(column)) == len(cache)
    assert 0 < most <= few


def test_several_caches_share_the_budget_and_give_theirs_back(
    linked: Path, few: int, mapped: Callable[[Path], int]
) -> None:
    caches = [Cache(linked) for _ in range(3)]
    for index in range(0, len(caches[0]), 7):
        for cache in caches:
            assert cache[index].sample.key == caches[0][index].sample.key
    assert 0 < mapped(linked) <= few
    del cache, caches
    gc.collect()
    assert (mapped(linked), MAPS.used) == (0, 0)


def test_arrays_that_are_held_stay_readable_when_their_part_goes(linked: Path, few: int) -> None:
    cache = Cache(linked)
    first = cache[0]
    before = {name: array.copy() for name, array in first.answer.fields.items()}
    for index in range(0, len(cache), 9):
        _ = cache[index]
    for name, array in first.answer.fields.items():
        assert np.array_equal(array, before[name])


@pytest.mark.parametrize(("told", "expected"), [("262144\n", 262_144), ("none", USUAL_LIMIT), (None, USUAL_LIMIT)])
def test_the_limit_of_the_system_is_read_where_it_says_one(tmp_path: Path, told: str | None, expected: int) -> None:
    if told is not None:
        (tmp_path / "max_map_count").write_text(told)
    assert map_limit(tmp_path / "max_map_count") == expected
    assert 0 < MAPS.most <= MOST


@pytest.mark.exhaustive
def test_an_epoch_over_4300_parts_with_taps_stays_below_the_maps_of_a_process(
    source: Path, tmp_path: Path, mapped: Callable[[Path], int]
) -> None:
    folder = tmp_path / "cache"
    cache = linked_cache(source, folder, 4300)
    taps = list(cache.taps)
    most, seen = 0, 0
    for number, batch in enumerate(cache.loader(batch_size=64, seed=1, taps=taps, workers=2)):
        seen += len(batch.samples)
        most = max(most, mapped(folder)) if number % 20 == 0 else most
    most = max(most, mapped(folder))
    print(
        f"{len(cache)} samples, {len(taps)} taps, at most {most} maps of the cache, {MAPS.used} of {MAPS.most} counted"
    )
    assert seen == len(cache)
    assert most <= MAPS.most + on_their_way(64)
