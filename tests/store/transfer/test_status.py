"""How far a cache is, from listings alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.errors import NotACache
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache
from logitstore.store.layout import FAILED_NAME
from logitstore.store.transfer.copy import Extent, copy_cache
from logitstore.store.transfer.status import ranges, status
from tests.store.transfer.test_copy import plan, source

__all__ = ["plan", "source"]

Far = Callable[[str], str]


def test_a_status_counts_what_is_there_and_what_is_missing(source: Path, far: Far, requests: list[str]) -> None:
    copy_cache(source, far("cache"), Extent(parts="0,2-3"))
    requests.clear()
    cache, tap = status(far("cache"))
    assert not any(request.startswith("get") for request in requests if ".zip" in request)
    whole = Cache(source)
    assert (cache.name, tap.name) == ("cache", "hidden-1")
    for each in (cache, tap):
        assert (each.parts, each.planned) == (3, whole.manifest.parts)
        assert each.missing == [1, *range(4, whole.manifest.parts)]
        assert each.samples == sum(whole.manifest.samples_in(part) for part in (0, 2, 3))
        assert each.idle_seconds is not None
        assert each.idle_seconds < 600
    copy_cache(source, far("cache"), Extent())
    assert all((each.missing, each.rows, each.seconds_left) == ([], whole.rows, None) for each in status(far("cache")))


def ages(folder: Path, seconds: dict[int, float]) -> None:
    """Let parts be so many seconds old."""
    for part, age in seconds.items():
        moment = time.time() - age
        os.utime(folder / "parts" / f"{part:05d}" / "part.json", (moment, moment))


@pytest.fixture
def begun(source: Path, tmp_path: Path) -> Path:
    """A cache of which the first four parts are there."""
    copy_cache(source, tmp_path / "begun", Extent(parts="0-3", taps=[]))
    return tmp_path / "begun"


def test_an_address_without_a_plan_may_be_that_of_a_dump_that_loads_its_teacher(far: Far, tmp_path: Path) -> None:
    for place in (far("none"), tmp_path / "none"):
        with pytest.raises(NotACache, match=f"^{re.escape(str(place))}: no cache is there yet, or none ever"):
            status(place)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "cache.json").mkdir()
    with pytest.raises(NotACache, match=r"a cache is a folder with a cache\.json in it"):
        status(tmp_path / "cache")


def test_the_speed_is_that_of_the_parts_that_came_last(begun: Path) -> None:
    manifest = Cache(begun).manifest
    ages(begun, {0: 35, 1: 25, 2: 15, 3: 5})
    [found] = status(begun)
    share = manifest.rows / manifest.samples
    assert found.rows_per_second == pytest.approx(12 / 30 * share, rel=1e-3)
    assert found.seconds_left == pytest.approx((manifest.samples - 16) / (12 / 30), rel=1e-3)
    # a dump that was interrupted for a night is as fast as it is now
    ages(begun, {0: 40_010, 1: 40_000, 2: 15, 3: 5})
    assert status(begun)[0].rows_per_second == pytest.approx(4 / 10 * share, rel=1e-3)
    # nobody writes any more
    ages(begun, {0: 4035, 1: 4025, 2: 4015, 3: 4005})
    [found] = status(begun)
    assert (found.rows_per_second, found.seconds_left) == (None, None)
    assert found.idle_seconds == pytest.approx(4005, abs=5)


def test_parts_that_were_given_up_are_named_as_long_as_they_are_missing(begun: Path, plan: DumpSettings) -> None:
    (begun / "sidecars").mkdir(exist_ok=True)
    (begun / FAILED_NAME).write_text(json.dumps({"1": "came later", "4": "out of memory", "x": 1}))
    assert status(begun)[0].failed == {4: "out of memory"}
    (begun / FAILED_NAME).write_text("[")
    assert status(begun)[0].failed == {}
    shutil.rmtree(begun / "sidecars")


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([7], "7"), ([0, 1, 2, 5, 7, 8], "0-2,5,7-8"), ([3, 4], "3-4")]
)
def test_numbers_are_shown_as_parts_takes_them(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text
