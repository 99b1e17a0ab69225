"""Rows of two sources never meet in one cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch
from logitstore.format.manifest import Manifest
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.store.checks.verify import verify
from tests.parts.broken import reseal
from tests.parts.files import tree
from tests.parts.texts import plan_for

ROW: dict[str, Any] = {"preset": "topk", "tail": "uniform", "k": 4}

Way = Callable[[Path], logitstore.Cache]
WAYS = ("dumped", "from exact", "from topk", "from a recoded topk", "a mean", "another mean")


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> dict[str, Way]:
    """Ways to fill a folder with caches whose rows have one form and differ."""
    folder = tmp_path_factory.mktemp("sources")
    small = {"limit": 6, "samples_per_part": 9, "fidelity_rows": 0}

    def dumped(out: Path, **changes: Any) -> logitstore.Cache:
        return dump(plan_for(teacher, texts, out, **small | changes))

    exact = dumped(folder / "exact", preset="exact", k=None).path
    topk = dumped(folder / "topk", k=8, tail="uniform").path
    fewer = recode(RecodeSettings(cache=exact, out=folder / "fewer", **ROW | {"k": 8})).path
    return {
        "dumped": lambda out: dumped(out, **ROW),
        "from exact": lambda out: recode(RecodeSettings(cache=exact, out=out, **ROW)),
        "from topk": lambda out: recode(RecodeSettings(cache=topk, out=out, **ROW)),
        "from a recoded topk": lambda out: recode(RecodeSettings(cache=fewer, out=out, **ROW)),
        "a mean": lambda out: merge(MergeSettings(caches=[exact, topk], out=out, **ROW)),
        "another mean": lambda out: merge(MergeSettings(caches=[exact, fewer], out=out, **ROW)),
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, ways: dict[str, Way]) -> dict[str, Path]:
    """A complete cache of each; do not change them."""
    folder = tmp_path_factory.mktemp("made")
    return {name: way(folder / name.replace(" ", "-")).path for name, way in ways.items()}  # type: ignore[misc]


def test_every_source_gives_a_plan_of_its_own(made: dict[str, Path]) -> None:
    assert len({logitstore.open(path).manifest.identity for path in made.values()}) == len(WAYS)
    contents = [tree(path) for path in made.values()]
    assert all(one["cache.json"] != other["cache.json"] for one, other in permutations(contents, 2))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("is_whole", [True, False])
def test_a_cache_is_continued_from_its_own_source_alone(
    ways: dict[str, Way], made: dict[str, Path], way: str, is_whole: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(made[way], out)
    if not is_whole:
        shutil.rmtree(out / "parts" / "00001")
    before = tree(out)
    for other in set(WAYS) - {way}:
        with pytest.raises(CacheMismatch, match="Choose another folder"):
            ways[other](out)
        assert tree(out) == before
    assert ways[way](out).complete
    assert tree(out) == tree(made[way])


@pytest.mark.parametrize("way", ["from exact", "from topk"])
def test_what_an_older_version_recoded_is_opened_verified_and_continued(
    ways: dict[str, Way], made: dict[str, Path], way: str, tmp_path: Path
) -> None:
    """Its `cache.json` has no origin, and its parts carry the identity without it."""
    old = tmp_path / "old"
    shutil.copytree(made[way], old)
    reseal(old / "cache.json", lambda content: content.pop("origin"))
    manifest: Manifest = logitstore.open(old).manifest
    assert manifest.identity != logitstore.open(made[way]).manifest.identity
    for record in old.glob("parts/*/part.json"):
        reseal(record, lambda content: content.update(plan=manifest.identity))
    expected = tree(old)
    assert verify(old) == []
    shutil.rmtree(old / "parts" / "00001")
    for other in {"dumped", "from exact", "from topk"} - {way}:
        with pytest.raises(CacheMismatch, match="the rows there are recoded from"):
            ways[other](old)
    assert ways[way](old).complete
    assert tree(old) == expected
