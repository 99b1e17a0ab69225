"""Damaged taps are reported and added again; archives keep them mapped."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
import zarr

from logitstore.convert.recode import recode
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import CacheDamaged, CacheMismatch
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import seal, seal_of, unseal
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.dump import AddSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import repair, verify
from logitstore.store.local_disk import LocalDisk
from logitstore.store.taps import TENSOR_FILE_ERRORS
from tests.parts.files import tree
from tests.parts.taps import small_taps_plan


def test_any_flipped_byte_of_a_tap_is_reported_with_its_part_and_file(bare_copy: Path) -> None:
    add(AddSettings(cache=bare_copy, hidden="1", tap_codec="int8", device="cpu"))
    chance = np.random.default_rng(3)
    names = [f"taps/{name}" for name in tree(bare_copy / "taps")]
    assert len(names) == 2 + 3 * 6
    for name in names:
        path = bare_copy / name
        whole = path.read_bytes()
        for offset in {0, len(whole) - 1, int(chance.integers(len(whole)))}:
            broken = bytearray(whole)
            broken[offset] ^= 1 << int(chance.integers(8))
            path.write_bytes(broken)
            part = re.search(r"parts/(\d+)/", name)
            found = {(problem.tap, problem.part, problem.file) for problem in verify(bare_copy)}
            assert found == {("hidden-1", int(part[1]) if part else None, name)}, (name, offset)
        path.write_bytes(whole)
    assert verify(bare_copy) == []


@pytest.mark.parametrize(
    "spoilt",
    [
        "tap.json",
        "parts/00001/part.json",
        "parts/00001/rows.zarr/values/c/0/0",
        "parts/00002/rows.zarr/scale/zarr.json",
    ],
)
def test_what_is_broken_is_dropped_and_added_again(spoilt: str, bare_copy: Path) -> None:
    plan = AddSettings(cache=bare_copy, hidden="1", tap_codec="int8", device="cpu")
    add(plan)
    whole = tree(bare_copy)
    (bare_copy / "taps/hidden-1" / spoilt).write_bytes(b"not this")
    problems = verify(bare_copy)
    part = re.search(r"parts/\d+", spoilt)
    assert repair(bare_copy, problems) == [f"taps/hidden-1/{part[0] if part else spoilt}"]
    assert {name: whole[name] for name in tree(bare_copy)} == tree(bare_copy)
    # parts without the record of their tap are named until `add` writes it again
    assert [problem.file for problem in verify(bare_copy)] == (["taps/hidden-1"] if spoilt == "tap.json" else [])
    add(plan)
    assert tree(bare_copy) == whole


def test_a_shared_file_that_is_gone_is_fitted_again(bare_copy: Path) -> None:
    plan = AddSettings(cache=bare_copy, hidden="1,final", tap_codec="pca-4", device="cpu")
    add(plan)
    whole = tree(bare_copy)
    shutil.rmtree(bare_copy / "taps/final/shared")
    assert [problem.what for problem in verify(bare_copy)] == ["missing"]
    with pytest.raises(CacheDamaged, match="logitstore verify"):
        _ = Cache(bare_copy).taps["final"].codec
    add(plan)
    assert tree(bare_copy) == whole


def test_a_tap_whose_values_are_not_finite_is_reported(tapped_copy: Path) -> None:
    """Sealed anew, so that no checksum tells it."""
    folder = tapped_copy / "taps/final/parts/00001"
    chunk = folder / "rows.zarr/values/c/0/0"
    chunk.write_bytes(np.float32(np.nan).tobytes() + chunk.read_bytes()[4:])
    record = unseal(PartRecord, folder / RECORD_NAME)
    files = record.files | {"rows.zarr/values/c/0/0": seal_of(chunk)}
    (folder / RECORD_NAME).write_bytes(seal(record.model_copy(update={"files": files})))
    assert [problem.what for problem in verify(tapped_copy)] == ["a value is not finite"]


def test_a_tap_of_another_cache_is_refused_reported_and_dropped(
    tapped: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    other = dump(small_taps_plan(teacher, texts, tmp_path / "other", k=7)).path
    shutil.copytree(tapped / "taps/final", other / "taps/final")
    with pytest.raises(CacheMismatch, match=r"taps/final belongs to another cache. Remove"):
        Cache(other).loader(taps=["final"])
    with pytest.raises(CacheMismatch, match="another cache"):
        add(AddSettings(cache=other, hidden="final", device="cpu"))
    problems = verify(other)
    assert [(problem.tap, problem.file) for problem in problems] == [("final", "taps/final")]
    assert repair(other, problems) == ["taps/final"]
    assert verify(other) == []


@pytest.mark.parametrize("name", ["parts", "shared", "taps/final/parts", "taps/final/shared"])
def test_nothing_behind_a_link_is_swept(name: str, teacher: Path, texts: Path, tapped_copy: Path) -> None:
    """Neither hidden files nor what looks like a killed writer's, whichever command comes to the end of a cache."""
    outside = tapped_copy.parent / "outside"
    if (tapped_copy / name).exists():
        shutil.move(tapped_copy / name, outside)
    for mine in (".mine", "00001.partial-mine/.mine"):
        (outside / mine).parent.mkdir(parents=True, exist_ok=True)
        (outside / mine).write_text("two years of work")
    (tapped_copy / name).symlink_to(outside)
    before = tree(outside)
    for again in (
        lambda: add(AddSettings(cache=tapped_copy, hidden="final", device="cpu")),
        lambda: dump(small_taps_plan(teacher, texts, tapped_copy, hidden="final")),
        lambda: LocalDisk(tapped_copy / Path(name).parent).sweep(),
    ):
        with pytest.raises(CacheDamaged, match="leads outside the cache"):
            again()
        assert tree(outside) == before


@pytest.mark.parametrize("name", ["parts", "taps/final/parts", "taps"])
def test_nothing_is_written_behind_a_link(name: str, teacher: Path, texts: Path, tapped_copy: Path) -> None:
    outside = tapped_copy.parent / "outside"
    (outside / "00001.partial-mine").mkdir(parents=True)
    shutil.rmtree(tapped_copy / name)
    (tapped_copy / name).symlink_to(outside)
    with pytest.raises(CacheDamaged, match="leads outside the cache"):
        dump(small_taps_plan(teacher, texts, tapped_copy, hidden="final"))
    assert os.listdir(outside) == ["00001.partial-mine"]


def test_a_part_of_another_tap_is_refused(tapped_copy: Path) -> None:
    shutil.rmtree(tapped_copy / "taps/key-2/parts/00001")
    shutil.copytree(tapped_copy / "taps/value-2/parts/00001", tapped_copy / "taps/key-2/parts/00001")
    with pytest.raises(CacheMismatch, match="another plan"):
        Cache(tapped_copy).taps["key-2"].part(1)
    assert [problem.file for problem in verify(tapped_copy)] == ["taps/key-2/parts/00001/part.json"]


def test_taps_of_an_archive_are_mapped_all_the_same(bare_copy: Path, tmp_path: Path) -> None:
    archive = recode(RecodeSettings(cache=bare_copy, out=tmp_path / "archive", layout="archive")).path
    add(AddSettings(cache=archive, hidden="1", device="cpu"))
    add(AddSettings(cache=bare_copy, hidden="1", device="cpu"))
    assert verify(archive) == []
    rows = {name: content for name, content in tree(archive / "taps").items() if "rows.zarr" in name}
    assert rows == {name: content for name, content in tree(bare_copy / "taps").items() if "rows.zarr" in name}
    batch = next(iter(loader := Cache(archive).loader(taps=["hidden-1"])))
    assert torch.isfinite(loader.features(batch)["hidden-1"]).all()


def test_zarr_alone_opens_a_tap(tapped: Path) -> None:
    group: Any = zarr.open_group(str(tapped / "taps/final/parts/00001/rows.zarr"), mode="r")
    assert np.array_equal(group["values"][...], Cache(tapped).taps["final"].part(1)["values"])


FORMATS = [
    *("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL", "C64"),
    *("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F6_E2M3", "F6_E3M2", "F4", "F2"),
]
FORGED = [
    *(
        {"a": {"dtype": name, "shape": [8], "data_offsets": [0, size]}}
        for name in FORMATS
        for size in (4, 6, 8, 16, 32, 64)
    ),
    *({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}} for shape in ([-1], [1e3], [2**62, 4], [1] * 70)),
    *({"a": {"dtype": "F32", "shape": [1], "data_offsets": span}} for span in ([4, 0], [0, 8], [0, 2**70], "0")),
    *({"a": 1}, {"a": {}}, [], None, "a", {"__metadata__": 3}, {"__metadata__": {"a": 1}}),
]


def test_a_forged_file_of_tensors_raises_no_other_errors_than_those_that_are_retold(tmp_path: Path) -> None:
    path = tmp_path / "forged.safetensors"
    headers = [json.dumps(header).encode() for header in FORGED]
    whole = [struct.pack("<Q", len(text)) + text + bytes(size) for text in headers for size in (4, 6, 8, 16, 32, 64)]
    deep = b"[" * 100_000
    for content in [*whole, b"", b"abc", struct.pack("<Q", 2**63), struct.pack("<Q", len(deep)) + deep]:
        path.write_bytes(content)
        with suppress(*TENSOR_FILE_ERRORS):
            safetensors.torch.load(content)
        for load in (safetensors.torch.load_file, safetensors.numpy.load_file):
            with suppress(*TENSOR_FILE_ERRORS):
                load(path)
    with pytest.raises(TENSOR_FILE_ERRORS):
        safetensors.numpy.load_file(tmp_path)
