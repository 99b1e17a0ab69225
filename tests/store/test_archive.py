"""The archive layout: read by zarr alone, and refused when damaged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import CacheDamaged
from logitstore.store.checks.verify import verify
from tests.parts.specification import packed_plan, tamper
from tests.parts.stranger import reseal


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """The same cache in the preset `archive`; do not change it."""
    return dump(packed_plan(teacher, texts, tmp_path_factory.mktemp("archive") / "cache", "archive"))


ZARR_ALONE = """
import sys
from pathlib import Path
import numpy, zarr

cache, expected = Path(sys.argv[1]), Path(sys.argv[2])
for part in sorted((cache / "parts").iterdir()):
    group = zarr.open_group(str(part / "rows.zarr"), mode="r")
    fields = numpy.load(expected / f"{part.name}.npz")
    assert sorted(group.array_keys()) == sorted(fields), "zarr"
    for name in fields:
        assert group[name].chunks[0] == min(group[name].shape[0], 16384)
        numpy.testing.assert_array_equal(group[name][:], fields[name], strict=True)
assert "logitstore" not in sys.modules
print("the same")
"""


def test_zarr_alone_reads_an_archive_and_finds_what_the_mapped_layout_holds(
    small_preset: logitstore.Cache, archive: logitstore.Cache, tmp_path: Path
) -> None:
    assert archive.manifest.codec.layout == "archive"
    assert archive.part_numbers == small_preset.part_numbers
    for number in small_preset.part_numbers:
        np.savez(tmp_path / f"{number:05d}.npz", **small_preset.part(number).fields)
    command = [sys.executable, "-W", "error", "-c", ZARR_ALONE, str(archive.path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("the same\n", "")


def test_an_archive_gives_the_samples_and_rows_of_the_mapped_cache(
    small_preset: logitstore.Cache, archive: logitstore.Cache
) -> None:
    assert verify(archive.path) == []
    assert archive.sums == small_preset.sums
    for theirs, ours in zip(small_preset, archive, strict=True):
        assert ours.sample.key == theirs.sample.key
        assert ours.answer.fields.keys() == theirs.answer.fields.keys()
        for name, array in ours.answer.fields.items():
            np.testing.assert_array_equal(array, theirs.answer[name], strict=True)


ARRAYS = ["ids", "logprobs", "tail_logmass", "sketch", "gold_logprob", "entropy"]


@pytest.mark.parametrize("field", ARRAYS)
def test_a_truncated_chunk_of_an_archive_is_refused_and_reported(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    os.truncate(chunk, chunk.stat().st_size - 1)
    (problem,) = verify(folder)
    assert (problem.part, problem.file) == (1, chunk.relative_to(folder).as_posix())
    with pytest.raises(CacheDamaged, match=f"rows.zarr/{field}/c/"):
        logitstore.open(folder).part(1)


@pytest.mark.parametrize("field", ARRAYS)
def test_a_flipped_bit_in_a_chunk_of_an_archive_is_reported(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    whole = chunk.read_bytes()
    for place in {0, 5, 16, len(whole) // 2, len(whole) - 1}:
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        chunk.write_bytes(changed)
        (problem,) = verify(folder)
        assert (problem.part, problem.file) == (1, chunk.relative_to(folder).as_posix()), place
    chunk.write_bytes(whole)
    assert verify(folder) == []


@pytest.mark.parametrize("field", ARRAYS)
def test_a_chunk_that_cannot_be_decompressed_is_refused_when_its_rows_are_asked_for(
    archive: logitstore.Cache, tmp_path: Path, field: str
) -> None:
    folder, chunk = with_chunk(archive, tmp_path, field)
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)
    part = logitstore.open(folder).part(1)
    with pytest.raises(CacheDamaged, match=rf"rows\.zarr/{field}.*does not hold"):
        part[0]


def with_chunk(cache: logitstore.Cache, tmp_path: Path, field: str) -> tuple[Path, Path]:
    """A copy of an archive, and one of its chunks."""
    folder = Path(shutil.copytree(cache.path, tmp_path / "copy"))
    (chunk,) = (path for path in (folder / f"parts/00001/rows.zarr/{field}/c").rglob("*") if path.is_file())
    return folder, chunk


BARE = [{"name": "bytes", "configuration": {"endian": "little"}}]


@pytest.mark.parametrize(
    "codecs",
    [
        BARE,
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, *BARE],
        [{"name": "transpose", "configuration": {"order": [1, 0]}}, *BARE, {"name": "zstd"}],
        [
            {"name": "transpose", "configuration": {"order": [1, 0]}},
            *BARE,
            {"name": "gzip", "configuration": {"level": 9}},
        ],
        [],
        None,
    ],
    ids=["bare", "no compressor", "zstd", "gzip", "none", "null"],
)
def test_an_archive_whose_metadata_name_other_codecs_is_refused(
    archive: logitstore.Cache, tmp_path: Path, codecs: object
) -> None:
    folder, _ = with_chunk(archive, tmp_path, "ids")
    path = folder / "parts/00001/rows.zarr/ids/zarr.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"codecs": codecs}))
    size = {"bytes": path.stat().st_size}
    tamper(folder / "parts/00001/part.json", lambda record: record["files"]["rows.zarr/ids/zarr.json"].update(size))
    part = logitstore.open(folder).part(1)
    with pytest.raises(CacheDamaged, match=r"ids/zarr\.json"):
        part[0]


def test_a_chunk_that_names_another_size_than_its_own_is_refused_behind_a_valid_seal(
    archive: logitstore.Cache, tmp_path: Path
) -> None:
    """A decoder would read beyond its end."""
    folder, chunk = with_chunk(archive, tmp_path, "ids")
    raw = chunk.read_bytes()
    chunk.write_bytes(raw[:12] + (len(raw) + 4096).to_bytes(4, "little") + raw[16:])
    reseal(folder)
    assert "not as long as it says" in verify(folder)[0].what


@pytest.mark.parametrize("name", [".zarray", ".zattrs", ".zgroup"])
def test_nothing_that_no_record_lists_is_opened_beside_an_array(
    archive: logitstore.Cache, tmp_path: Path, name: str
) -> None:
    folder, _ = with_chunk(archive, tmp_path, "ids")
    os.mkfifo(folder / "parts/00001/rows.zarr/ids" / name)
    assert len(logitstore.open(folder).part(1)[0].answer["ids"])
