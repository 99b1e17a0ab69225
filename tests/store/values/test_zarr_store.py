"""The view of values: zarr-python sees what `logitstore.open` gives, of every kind of cache."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import logitstore
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import NotACache
from logitstore.format.row import CodecInfo
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.dump import DumpSettings
from logitstore.store.values import arrays
from logitstore.store.values.zarr_store import ValuesStore
from tests.parts.specification import coded, golden_copy
from tests.parts.texts import plan_for


def shown(cache: Any) -> zarr.Group:
    return zarr.open_group(logitstore.zarr_store(cache.path), mode="r")


def assert_shows(cache: logitstore.Cache) -> dict[str, Any]:
    """Compare the view with the cache; give its arrays."""
    group = shown(cache)
    assert set(group.array_keys()) == {*cache.manifest.fields, "sample"}
    found = {name: array[:] for name, array in group.arrays()}
    for name in cache.manifest.fields:
        expected = np.concatenate([sample.answer[name] for sample in cache])
        assert found[name].shape == expected.shape
        assert found[name].dtype.kind == expected.dtype.kind or (found[name].dtype.kind, expected.dtype.kind) == (
            "u",
            "i",
        )
        np.testing.assert_array_equal(found[name].astype(expected.dtype), expected)
        assert group[name].attrs["unit"] == cache.manifest.fields[name].unit
    counts = [len(next(iter(sample.answer.fields.values()))) for sample in cache]
    np.testing.assert_array_equal(found["sample"], np.repeat(np.arange(len(cache)), counts))
    return found


@pytest.mark.parametrize("tail", ["float32", "log2-16", "log2-8"])
@pytest.mark.parametrize("logprobs", ["float32", "float16", "levels-8", "levels-6", "levels-5"])
@pytest.mark.parametrize("ids", ["plain", "packed"])
@pytest.mark.parametrize("layout", ["mapped", "archive"])
def test_every_codec_is_shown_as_values(tmp_path: Path, layout: Any, ids: Any, logprobs: Any, tail: Any) -> None:
    cache = coded(tmp_path / "cache", CodecInfo(ids=ids, logprobs=logprobs, tail=tail, layout=layout))
    found = assert_shows(cache)
    assert found["ids"].dtype == "uint16"
    assert found["tail_logmass"].dtype == "float32"


@pytest.mark.parametrize("rows", [1, 7, 64, 4096])
def test_chunks_go_over_the_borders_of_parts(
    small_preset: logitstore.Cache, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "CHUNK_ROWS", rows)
    assert len(small_preset.part_numbers) > 1
    if rows == 1:
        group, (at, number) = shown(small_preset), (100, small_preset.rows - 1)
        for row in (0, at, number):
            assert group["logprobs"][row].shape == group["ids"][row].shape
        return
    assert shown(small_preset)["ids"].chunks[0] == min(rows, small_preset.rows)
    assert_shows(small_preset)


def few(teacher: Path, texts: Path, out: Path, preset: str) -> DumpSettings:
    """A dump of few samples, whose preset says how many tokens are listed."""
    return plan_for(teacher, texts, out, preset=preset, k=None, limit=6, samples_per_part=9)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    return dump(few(teacher, texts, tmp_path_factory.mktemp("exact") / "cache", "exact"))


def test_hidden_states_are_shown_as_stored(exact: logitstore.Cache) -> None:
    assert shown(exact)["hidden"].metadata.dimension_names == ("row", "channel")
    assert_shows(exact)


KINDS: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"preset": "small", "layout": "archive"}, {"ids": "slot", "logprobs": "slot", "sketch": "byte"}),
    ({"sparsifier": "dense"}, {"logprobs": "token"}),
    ({"sparsifier": "dense", "logprobs": "levels-6"}, {"logprobs": "token"}),
    ({"preset": "sampled", "logprobs": "levels-6"}, {"ids": "slot", "logprobs": "slot", "counts": "draw"}),
    ({"sparsifier": "hybrid", "k": 3}, {"ids": "slot", "logprobs": "slot", "counts": "draw"}),
    ({"sparsifier": "topp"}, {"ids": "slot", "logprobs": "slot", "sketch": "byte"}),
]


@pytest.mark.parametrize(("options", "axes"), KINDS, ids=[str(options) for options, _ in KINDS])
def test_every_kind_of_row_is_shown(
    exact: logitstore.Cache, tmp_path: Path, options: dict[str, Any], axes: dict[str, str]
) -> None:
    recode(RecodeSettings(cache=exact.path, out=tmp_path / "cache", **options))
    cache = logitstore.open(tmp_path / "cache")
    group = shown(cache)
    named = {name: array.metadata.dimension_names[1:] for name, array in group.arrays()}
    assert {name: names for name, names in named.items() if names} == {name: (axis,) for name, axis in axes.items()}
    assert_shows(cache)


def test_views_of_images_are_shown(image_cache: logitstore.Cache) -> None:
    assert_shows(image_cache)


def test_scores_alone_are_a_group_without_rows(teacher: Path, texts: Path, tmp_path: Path) -> None:
    cache = dump(few(teacher, texts, tmp_path / "cache", "scores"))
    assert set(shown(cache).array_keys()) == {"sample"}


def test_the_parts_that_are_there_are_shown(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    whole = assert_shows(logitstore.open(folder))
    shutil.rmtree(folder / "parts" / "00000")
    rest = assert_shows(logitstore.open(folder))
    np.testing.assert_array_equal(rest["logprobs"], whole["logprobs"][-len(rest["logprobs"]) :])
    shutil.rmtree(folder / "parts" / "00001")
    group = shown(logitstore.open(folder))
    assert group["logprobs"].shape == (0, 2)
    assert group["logprobs"][:].shape == (0, 2)


ZARR_ALONE = """
import sys, zarr, logitstore
group = zarr.open_group(logitstore.zarr_store(sys.argv[1]), mode="r")
print(group["logprobs"][:2].tolist(), group["ids"][0].tolist())
assert not {"torch", "transformers"} & set(sys.modules)
"""


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    cache = coded(tmp_path / "cache", CodecInfo(ids="packed", logprobs="levels-8"))
    command = [sys.executable, "-W", "error", "-c", ZARR_ALONE, str(cache.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    first = np.concatenate([cache[0].answer[name][:2] for name in ("logprobs",)]).tolist()
    assert (done.stdout, done.stderr) == (f"{first} {cache[0].answer['ids'][0].tolist()}\n", "")


def test_a_key_that_is_none_has_no_value(small_preset: logitstore.Cache) -> None:
    store = logitstore.zarr_store(small_preset.path)
    keys = sync(_all(store.list()))
    assert len(keys) == len(set(keys))
    for key in keys:
        assert sync(store.exists(key))
        assert sync(store.get(key, default_buffer_prototype())) is not None
    others = [
        "",
        "x",
        "x/zarr.json",
        "ids",
        "ids/c",
        "ids/c/0",
        "ids/c/0/0/0",
        "ids/c/9/0",
        "ids/c/00/0",
        "ids/c/0/1",
        "ids/c/-1/0",
    ]
    for key in [*others, "c/0", "entropy/c/0/0", "../cache.json", "ids/c/1" + "0" * 18 + "/0"]:
        assert not sync(store.exists(key)), key
        assert sync(store.get(key, default_buffer_prototype())) is None, key
    names = [*small_preset.manifest.fields, "sample"]
    assert sync(_all(store.list_dir(""))) == ["zarr.json", *names]
    assert sync(_all(store.list_dir("ids/"))) == ["zarr.json", "c"]
    assert all(key.startswith("ids/") for key in sync(_all(store.list_prefix("ids/"))))


async def _all(keys: Any) -> list[str]:
    return [key async for key in keys]


def test_a_range_of_bytes_is_that_of_the_whole(small_preset: logitstore.Cache) -> None:
    store, prototype = logitstore.zarr_store(small_preset.path), default_buffer_prototype()

    def read(wanted: Any = None) -> bytes:
        return bytes(sync(store.get("ids/c/0/0", prototype, wanted)).to_bytes())

    assert read(RangeByteRequest(3, 9)) == read()[3:9]
    assert read(OffsetByteRequest(5)) == read()[5:]
    assert read(SuffixByteRequest(7)) == read()[-7:]
    assert read(SuffixByteRequest(0)) == b""
    some = sync(store.get_partial_values(prototype, [("ids/c/0/0", RangeByteRequest(0, 2)), ("none", None)]))
    assert (some[0].to_bytes(), some[1]) == (read()[:2], None)


def test_the_store_is_read_only_and_can_be_sent_to_another_process(small_preset: logitstore.Cache) -> None:
    store = logitstore.zarr_store(small_preset.path)
    again = pickle.loads(pickle.dumps(store))
    assert isinstance(again, ValuesStore)
    assert (again, hash(again)) == (store, hash(store))
    assert again != logitstore.zarr_store(golden_path())
    assert str(small_preset.path) in repr(store)
    np.testing.assert_array_equal(zarr.open_group(again, mode="r")["ids"][:], shown(small_preset)["ids"][:])
    with pytest.raises(ValueError, match="read-only"):
        sync(store.set("ids/zarr.json", default_buffer_prototype().buffer.from_bytes(b"")))
    with pytest.raises(ValueError, match="read-only"):
        sync(store.delete("ids/zarr.json"))
    with pytest.raises(ValueError, match="read-only"):
        zarr.open_group(store, mode="a")


def golden_path() -> Path:
    return Path(__file__).parents[2] / "golden" / "cache"


def test_what_is_no_cache_is_refused_in_our_words(tmp_path: Path) -> None:
    with pytest.raises(NotACache, match=str(tmp_path)):
        logitstore.zarr_store(tmp_path)
