"""The golden caches: written as they are, and read to the expected values."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import xxhash

import logitstore
from logitstore.store.checks.verify import verify
from tests.golden import make, make_imported, make_views
from tests.parts.files import tree
from tests.parts.specification import (
    GOLDEN,
    SPECIFICATION,
    assert_same,
    coded,
    identity_of,
    read_from_the_specification,
)


def plain(raw: bytes) -> dict[str, Any]:
    """Zarr metadata without what is empty: its text may change with zarr-python, its meaning may not."""
    return {key: value for key, value in json.loads(raw).items() if value not in (None, [], {})}


def test_todays_writer_gives_the_golden_bytes(tmp_path: Path) -> None:
    make.write(tmp_path)
    written, golden = tree(tmp_path), tree(GOLDEN)
    assert len(golden) == 1 + 1 + 2 * (2 + 1 + 2 * 5)
    assert written.keys() == golden.keys()
    for name in golden:
        if name.endswith("zarr.json"):
            assert plain(written[name]) == plain(golden[name]), name
        elif not name.endswith("part.json"):
            assert written[name] == golden[name], name
    for part in ("parts/00000", "parts/00001"):
        record = json.loads(golden[f"{part}/part.json"])
        del record["checksum"]
        for name in record["files"]:
            if name.endswith("zarr.json"):
                raw = written[f"{part}/{name}"]
                record["files"][name] = {"bytes": len(raw), "xxh3_128": xxhash.xxh3_128_hexdigest(raw)}
        assert written[f"{part}/part.json"] == make.reseal(record)


def test_todays_reader_reads_the_golden_cache_to_the_expected_values() -> None:
    assert verify(GOLDEN) == []
    cache = logitstore.open(GOLDEN)
    assert cache.manifest == make.manifest()
    assert (cache.complete, cache.rows) == (True, len(make.IDS))
    assert_same(read_from_the_specification(GOLDEN), cache)
    expected, done = make.fields(), 0
    for read, sample in zip(cache, make.samples(), strict=True):
        np.testing.assert_array_equal(read.sample.tokens_T, sample.tokens_T)
        np.testing.assert_array_equal(read.sample.mask_T, sample.mask_T)
        for name in ("key", "domain", "document", "window", "start"):
            assert getattr(read.sample, name) == getattr(sample, name)
        for name, array in read.answer.fields.items():
            np.testing.assert_array_equal(array, expected[name][done : done + sample.rows], strict=True)
        done += sample.rows
    assert done == len(make.IDS)


def test_an_archive_of_the_first_versions_is_read(tmp_path: Path) -> None:
    """Every field of it has its columns one after the other, with bytes sorted by significance."""
    folder = GOLDEN.parent / "archive"
    assert verify(folder) == []
    archive, today = logitstore.open(folder), coded(tmp_path / "cache", logitstore.open(folder).manifest.codec)
    assert archive.manifest == today.manifest
    for theirs, ours in zip(archive, today, strict=True):
        assert theirs.sample.key == ours.sample.key
        for name, array in ours.answer.fields.items():
            np.testing.assert_array_equal(theirs.answer[name], array, strict=True)
    chains = [
        [codec["name"] for codec in json.loads((cache / "parts/00000/rows.zarr/ids/zarr.json").read_bytes())["codecs"]]
        for cache in (folder, tmp_path / "cache")
    ]
    assert chains == [["transpose", "bytes", "blosc"], ["bytes", "blosc"]]


def test_the_chunks_of_the_golden_cache_are_the_bytes_that_the_specification_shows() -> None:
    chunk = GOLDEN / "parts/00001/rows.zarr/ids/c/0/0"
    assert chunk.read_bytes().hex() == "030000000300050000000100"
    assert (GOLDEN / "parts/00001/rows.zarr/entropy/c/0").read_bytes().hex() == "003800400000"
    assert "`03 00 00 00 03 00 05 00 00 00 01 00`" in SPECIFICATION
    assert os.path.getsize(chunk) == 3 * 2 * 2


def test_the_golden_cache_of_imported_lists_is_written_as_it_is_and_read_to_what_it_does_not_know(
    tmp_path: Path,
) -> None:
    make_imported.write(tmp_path)
    written, golden = tree(tmp_path), tree(make_imported.CACHE)
    assert len(golden) == 1 + 1 + 2 * (2 + 1 + 2 * 5)
    assert written.keys() == golden.keys()
    for name in golden:
        if not name.endswith(("zarr.json", "part.json")):
            assert written[name] == golden[name], name
    assert verify(make_imported.CACHE) == []
    plan, record = (json.loads(golden[name]) for name in ("cache.json", "parts/00000/part.json"))
    assert plan["imported"] == {"format": "generic", "gold": "listed", "mass": "known"}
    assert (record["plan"], record["sums"]["no_gold"]) == (identity_of(plan), 1)
    cache = logitstore.open(make_imported.CACHE)
    assert cache.manifest == make_imported.manifest()
    assert not cache.manifest.knows_gold
    assert_same(read_from_the_specification(make_imported.CACHE), cache)
    expected = make_imported.fields()
    for name, array in expected.items():
        read = np.concatenate([sample.answer[name] for sample in cache])
        np.testing.assert_array_equal(read, array, strict=True)
    assert np.isnan(expected["gold_logprob"]).tolist() == [False, True, False, False, False]
    told = pa.ipc.open_file(make_imported.CACHE / "parts/00000/samples.arrow").get_batch(0).column("nll").to_pylist()
    assert np.isnan(told[0])
    np.testing.assert_allclose(told[1], -np.log([0.375, 0.875]).mean(), rtol=1e-3)


def test_the_golden_cache_of_images_is_written_as_it_is_and_read_from_the_specification(tmp_path: Path) -> None:
    make_views.write(tmp_path)
    assert tree(tmp_path) == tree(make_views.CACHE)
    assert verify(make_views.CACHE) == []
    plan = json.loads((make_views.CACHE / "cache.json").read_bytes())
    (images,) = make_views.CACHE.glob("shared/images-*.arrow")
    table = pa.ipc.open_file(images).read_all().to_pylist()
    parts_of_view = -(-plan["samples"] // plan["samples_per_part"])
    cache = logitstore.open(make_views.CACHE)
    number = 0
    for part in range(plan["views"] * parts_of_view):
        here = make_views.CACHE / "parts" / f"{part:05d}"
        assert json.loads((here / "part.json").read_bytes())["plan"] == identity_of(plan)
        ids = np.frombuffer((here / "rows.zarr/ids/c/0/0").read_bytes(), "<u2").reshape(-1, 2)
        for row, view in enumerate(pa.ipc.open_file(here / "samples.arrow").get_batch(0).to_pylist()):
            image = part % parts_of_view * plan["samples_per_part"] + row
            assert (view["image"], view["view"]) == (image, part // parts_of_view)
            said = table[image]
            key = xxhash.xxh3_128_hexdigest(f"{said['key']}\0{view['view']}".encode())
            found = cache[number]
            assert (found.sample.key, found.sample.label) == (key, said["label"])
            assert (found.sample.content, found.sample.digest) == (view["content"], view["digest"])
            np.testing.assert_array_equal(found.answer["ids"][0], ids[row])
            assert bool(np.isnan(found.answer["gold_logprob"][0])) == (said["label"] < 0)
            number += 1
    assert number == len(cache) == plan["views"] * plan["samples"]
