"""A cache is mapped, and opened without touching its parts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.errors import LogitstoreError
from logitstore.format.sealed import seal
from tests.golden import make
from tests.parts.specification import assert_same, golden_copy, read_from_the_specification


def test_arrays_of_a_sample_are_read_only_views_of_the_mapped_files(cache: logitstore.Cache) -> None:
    part = cache.part(0)
    first, again = cache[1], cache[1]
    for name, array in first.answer.fields.items():
        assert not part.fields[name].flags.owndata
        assert not part.fields[name].flags.writeable
        assert np.shares_memory(array, part.fields[name])
        assert np.shares_memory(array, again.answer[name])
        assert not array.flags.writeable
    tokens = part.samples.batch.column("tokens").values
    mapped = np.frombuffer(tokens.buffers()[1], np.dtype(cache.manifest.fields["ids"].dtype))
    assert np.shares_memory(first.sample.tokens_T, mapped)
    assert not first.sample.tokens_T.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        first.sample.tokens_T[0] = 1


def test_what_is_written_to_a_file_later_is_seen_through_the_arrays_given_before(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    sample = logitstore.open(folder)[0]
    chunk = folder / "parts/00000/rows.zarr/ids/c/0/0"
    overwrite(chunk, chunk.read_bytes(), b"\x07\x00")
    assert sample.answer["ids"][0, 0] == 7
    samples = folder / "parts/00000/samples.arrow"
    raw, stored = samples.read_bytes(), np.concatenate(make.TOKENS[:3]).astype("<u2").tobytes()
    place = raw.index(stored)
    overwrite(samples, raw, raw[:place] + b"\x08\x00")
    assert sample.sample.tokens_T.tolist() == [8, *make.TOKENS[0][1:]]


def overwrite(path: Path, before: bytes, beginning: bytes) -> None:
    """Change a file in place, so that maps of it see it."""
    with path.open("r+b") as file:
        file.write(beginning + before[len(beginning) :])


def test_opening_touches_no_part(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    for path in folder.glob("parts/**/*"):
        if path.is_file():
            path.write_bytes(b"\xffgarbage")
    cache = logitstore.open(folder)
    assert (len(cache), cache.complete, cache.rows) == (5, True, 9)
    with pytest.raises(LogitstoreError):
        cache[0]


OPENED = """
import sys
import logitstore
import logitstore.store.cache  # what is imported when a cache is first opened is not counted
opened = []
watching = False
def watch(event, arguments):
    if watching and event in ("open", "os.listdir", "os.scandir"):
        opened.append(f"{event} {arguments[0]}")
sys.addaudithook(watch)
watching = True
cache = logitstore.open(sys.argv[1])
watching = False
print(len(cache), cache.complete, *opened, sep="\\n")
"""


def test_opening_two_thousand_parts_reads_one_file_and_lists_one_folder(tmp_path: Path) -> None:
    parts = 2000
    manifest = make.manifest().model_copy(update={"samples": parts * make.SAMPLES_PER_PART})
    (tmp_path / "cache.json").write_bytes(seal(manifest))
    for part in range(parts):
        folder = tmp_path / "parts" / f"{part:05d}"
        folder.mkdir(parents=True)
        (folder / "part.json").touch()
    done = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        str(manifest.samples),
        "True",
        f"open {tmp_path / 'cache.json'}",
        f"os.listdir {tmp_path / 'parts'}",
    ]


def test_staging_folders_and_parts_without_a_record_are_not_there(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    (folder / "parts/00001/part.json").unlink()
    shutil.copytree(folder / "parts/00000", folder / "parts/00001.partial-0123abcd")
    shutil.copytree(folder / "parts/00000", folder / "parts/00007")
    (folder / "parts/notes.txt").touch()
    cache = logitstore.open(folder)
    assert (cache.part_numbers, len(cache), cache.complete) == ([0], 3, False)
    assert_same(read_from_the_specification(folder), cache)
