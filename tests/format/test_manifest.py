"""Plans that do not fit together, of other versions or with fields missing are refused."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import xxhash

import logitstore
from logitstore.errors import CacheDamaged, LogitstoreError, NotACache
from tests.golden import make
from tests.parts.specification import adopt, golden_copy, tamper


def recodec(plan: dict[str, Any], name: str, codec: str) -> None:
    plan["fields"][name]["codec"] = codec


@pytest.mark.parametrize("name", ["ids", "logprobs", "tail_logmass", "sketch"])
def test_a_plan_whose_field_has_another_codec_is_refused(
    small_preset: logitstore.Cache, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(small_preset.path, tmp_path / "copy"))
    found = small_preset.manifest.fields[name].codec
    for codec in {"plain", "bits-9", "levels-8", "levels-5", "log2-8", "codebook", "zip"} - {found}:
        tamper(folder / "cache.json", functools.partial(recodec, name=name, codec=codec))
        with pytest.raises(CacheDamaged, match=f"the field '{name}'"):
            logitstore.open(folder)


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("codec", {"logprobs": "levels-7"}),
        ("codec", {"tail": "log2-4"}),
        ("codec", {"layout": "zip"}),
        ("codec", {"novelty": 1}),
        ("sparsifier", {"name": "topq"}),
        ("sparsifier", {"draws": 4}),
        ("sparsifier", {"k": 0}),
        ("sparsifier", {"k": 100_000}),
        ("tail", {"shape": "head"}),
        ("tail", {"bytes": None}),
        ("tail", {"width": 32}),
    ],
)
def test_a_plan_whose_parts_do_not_fit_together_is_refused(
    small_preset: logitstore.Cache, tmp_path: Path, section: str, change: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(small_preset.path, tmp_path / "copy"))
    tamper(folder / "cache.json", lambda plan: plan[section].update(change))
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)


@pytest.mark.parametrize("spelling", ["000000", "٠٠٠٠٠"])
def test_a_second_folder_with_the_number_of_a_part_is_not_a_part(tmp_path: Path, spelling: str) -> None:
    folder = golden_copy(tmp_path)
    shutil.copytree(folder / "parts/00000", folder / "parts" / spelling)
    cache = logitstore.open(folder)
    assert (cache.part_numbers, len(cache)) == ([0, 1], 5)


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("name", ["cache.json", "parts/00000/part.json"])
def test_a_newer_version_is_refused_by_name_whatever_else_it_holds(tmp_path: Path, name: str, sealed: bool) -> None:
    folder = golden_copy(tmp_path)
    if sealed:
        tamper(folder / name, lambda content: content.update(version=2, novelty={"a": 1}))
    else:
        (folder / name).write_text('{"format": "logitstore", "version": 2, "novelty": 1}')
    with pytest.raises(NotACache, match=r"version 2.*newer logitstore"):
        logitstore.open(folder)[0]


@pytest.mark.parametrize("version", [0, "1", None, -1])
def test_a_version_that_never_was_is_refused(tmp_path: Path, version: object) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan.update(version=version))
    with pytest.raises(LogitstoreError, match="version"):
        logitstore.open(folder)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b'{"format": "another"}',
        b"[" * 100_000,
        b'{"format": "logitstore", "version": ' + b"1" * 5000 + b"}",
        make.reseal({"format": "logitstore", "version": 1}).replace(b"\n}\n", b',\n "a": 1\n}\n'),
    ],
    ids=["empty", "list", "object", "null", "binary", "foreign", "deep", "huge number", "more after the seal"],
)
def test_other_files_in_place_of_the_plan_are_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "cache.json").write_bytes(raw)
    with pytest.raises(LogitstoreError):
        logitstore.open(tmp_path)


def test_a_seal_on_another_key_is_refused(tmp_path: Path) -> None:
    text = '{\n "format": "logitstore",\n "version": 1,\n "a\\"checksum": "' + "0" * 32 + '"\n}\n'
    digest = xxhash.xxh3_128_hexdigest(text.encode())
    (tmp_path / "cache.json").write_text(text.replace("0" * 32, digest))
    with pytest.raises(LogitstoreError):
        logitstore.open(tmp_path)


@pytest.mark.parametrize("name", ["ids", "logprobs", "tail_logmass", "gold_logprob", "entropy"])
def test_a_plan_without_one_of_the_fields_is_refused(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["fields"].pop(name))
    adopt(folder)
    with pytest.raises(CacheDamaged, match=name):
        logitstore.open(folder)[0]


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [1 << 60, 2]},
        {"shape": [-6, -2]},
        {"shape": [6, 2, 1]},
        {"data_type": "float64"},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "zstd"}]},
        {"chunk_key_encoding": {"name": "v2"}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, 2]}}},
        {"shape": None},
    ],
    ids=lambda change: "-".join(change),
)
def test_zarr_metadata_that_is_not_the_plans_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = golden_copy(tmp_path)
    path = folder / "parts/00000/rows.zarr/ids/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    size = {"bytes": path.stat().st_size}
    tamper(folder / "parts/00000/part.json", lambda record: record["files"]["rows.zarr/ids/zarr.json"].update(size))
    with pytest.raises(CacheDamaged, match=r"zarr\.json"):
        logitstore.open(folder)[0]
