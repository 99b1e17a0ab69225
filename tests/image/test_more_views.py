"""Views that are added make the cache of a dump with all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.train.loader.views.order import view_order
from tests.parts.files import traces, tree
from tests.parts.marks import rarely
from tests.parts.tasks import adding, identities


@pytest.mark.parametrize(
    "steps",
    [
        rarely([{"views": "2-4"}]),
        rarely([{"views": "2"}, {"views": "3 - 4", "workers": 1}]),
        rarely([{"views": "0-3"}, {"views": "4"}]),
        [{"views": "2-4", "parts": "39"}, {"views": "2-4", "parts": "16-20,31"}, {"views": "1-4"}],
    ],
    ids=lambda steps: "; ".join(step["views"] for step in steps),
)
def test_views_that_are_added_make_the_cache_of_a_dump_with_all_of_them(
    two_views: Path, five_views: dict[str, bytes], steps: list[dict[str, Any]]
) -> None:
    there = {part: identities(layout.part_folder(two_views, part)) for part in range(16)}
    for step in steps:
        cache = add(adding(two_views, **step))
        assert verify(two_views) == []
        assert cache.manifest.views == int(step["views"][-1]) + 1
    assert tree(two_views) == five_views
    assert {part: identities(layout.part_folder(two_views, part)) for part in range(16)} == there


def test_a_dump_with_more_views_adds_them_and_one_with_fewer_leaves_them(
    two_views: Path, five_views: dict[str, bytes], views_plan: Callable[..., DumpSettings]
) -> None:
    assert dump(views_plan(two_views, 5)).complete
    assert tree(two_views) == five_views
    assert len(dump(views_plan(two_views, 1))) == 5 * 16
    assert tree(two_views) == five_views


def test_nothing_of_a_manifest_changes_but_the_count_of_views(two_views: Path) -> None:
    before = json.loads((two_views / MANIFEST_NAME).read_bytes())
    add(adding(two_views, "2"))
    after = json.loads((two_views / MANIFEST_NAME).read_bytes())
    assert (before.pop("views"), after.pop("views")) == (2, 3)
    assert before.pop("checksum") != after.pop("checksum")
    assert before == after


def test_views_whose_adding_was_interrupted_are_not_read_before_they_are_whole(
    two_views: Path, five_views: dict[str, bytes]
) -> None:
    def interrupt(step: Step) -> None:
        if step.part == 28:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(adding(two_views, "2-4"), interrupt)
    cache = Cache(two_views)
    assert verify(two_views) == []
    assert traces(two_views / layout.PARTS) == []
    assert (cache.manifest.views, cache.complete) == (5, False)
    assert cache.part_numbers == list(range(28))
    assert cache.whole_views == [0, 1, 2]
    order = view_order(cache, np.arange(16), None, 1, 0)
    assert order.firsts == (0, 16, 32)
    add(adding(two_views, "2-4"))
    assert tree(two_views) == five_views


def test_the_same_views_are_added_by_two_at_once(two_views: Path, five_views: dict[str, bytes]) -> None:
    with ThreadPoolExecutor(2) as pool:
        for cache in pool.map(add, [adding(two_views, "2-4")] * 2):
            assert cache.manifest.views == 5
    assert traces(two_views) == []
    assert verify(two_views) == []
    assert tree(two_views) == five_views
