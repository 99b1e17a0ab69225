"""Views that are added to a cache while others do the same."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.add import add
from logitstore.dump.begin import ensure_views
from logitstore.dump.dump import dump
from logitstore.dump.parts import write_part
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.settings.dump import AddSettings
from logitstore.store import local_disk
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.images import images_plan, save_classifier, small_vit


def test_other_weights_add_no_views(own_views: Path, tmp_path: Path, refused: Refused) -> None:
    other = save_classifier(tmp_path / "other", small_vit(9))
    before = tree(own_views)
    line = refused("add", own_views, "--views", "3", "--teacher", other, "--device", "cpu")
    assert f"--teacher {other}: its weights are not those that {own_views} was made with" in line
    assert tree(own_views) == before


def test_views_that_another_process_took_back_are_there_in_the_end(
    classifier: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1))
    before = (cache.path / MANIFEST_NAME).read_bytes()

    def late(*arguments: Any) -> None:
        """Another process read the plan before it grew, and writes it now."""
        (cache.path / MANIFEST_NAME).write_bytes(before)
        write_part(*arguments)

    monkeypatch.setattr("logitstore.dump.parts.write_part", late)
    grown = add(AddSettings(cache=cache.path, views="1-2", device="cpu"))
    assert (grown.manifest.views, grown.complete) == (3, True)
    assert verify(cache.path) == []


def test_two_that_let_a_cache_grow_take_turns(
    classifier: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("fcntl")
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1, limit=3))
    begun, go_on = threading.Event(), threading.Event()
    write_whole = local_disk.write_whole

    def slowly(path: Path, content: bytes) -> None:
        begun.set()
        assert go_on.wait(60)
        write_whole(path, content)

    monkeypatch.setattr("logitstore.store.local_disk.write_whole", slowly)
    with ThreadPoolExecutor(2) as pool:
        smaller = pool.submit(ensure_views, cache.storage, 4)
        assert begun.wait(60)
        larger = pool.submit(ensure_views, cache.storage, 9)
        assert not wait([larger], timeout=0.3).done
        go_on.set()
        assert (smaller.result().views, larger.result().views) == (4, 9)
    assert Cache(cache.path).manifest.views == 9


@pytest.mark.parametrize("way", ["add", "dump"])
def test_a_plan_that_was_left_behind_its_parts_is_mended_by_the_same_command(
    classifier: Path, images: Path, tmp_path: Path, way: str
) -> None:
    plan = images_plan(classifier, images, tmp_path / "cache", views=1)
    before = (dump(plan).path / MANIFEST_NAME).read_bytes()
    whole = plan.model_copy(update={"views": 3})

    def more() -> Cache:
        return dump(whole) if way == "dump" else add(AddSettings(cache=plan.out, views="1-2", device="cpu"))

    assert more().manifest.views == 3
    (plan.out / MANIFEST_NAME).write_bytes(before)  # as another process left it that was stopped then
    assert len(Cache(plan.out)) == 60
    mended = more()
    assert (mended.manifest.views, len(mended), mended.complete) == (3, 180, True)
    assert verify(plan.out) == []
