"""Files of selections: written, read, and refused when damaged or for other data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import xxhash

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.store.selection import Selection, read_selection, write_selection
from logitstore.train.train import train
from tests.golden import make_selection
from tests.parts.commands import Refused
from tests.parts.places import ROOT
from tests.parts.selections import selection_of, training
from tests.parts.stranger import cut, empty, folder, link_to_a_device, listening_socket, pipe, sparse
from tests.parts.texts import plan_for

SPECIFICATION = ROOT / "docs" / "format.md"


@pytest.mark.parametrize("method", ["random", "llkd", "prune"])
def test_a_selection_comes_back_as_it_was_written(cache: logitstore.Cache, tmp_path: Path, method: str) -> None:
    amount = {} if method == "llkd" else {"ratio": 0.5}
    out, written = selection_of(cache, tmp_path, method=method, **amount)
    read = read_selection(out)
    assert (read.info, read.checksum) == (written.info, written.checksum)
    np.testing.assert_array_equal(read.samples_M, written.samples_M)
    assert (read.weight_M is None) == (method != "llkd")
    if read.weight_M is not None and written.weight_M is not None:
        np.testing.assert_array_equal(read.weight_M, written.weight_M)
    plain = pa.ipc.open_file(pa.memory_map(str(out))).read_all()
    assert plain.column("sample").to_pylist() == written.samples_M.tolist()


def test_the_golden_selection_is_read_to_the_expected_values_with_the_checksum_that_the_specification_says() -> None:
    found, expected = read_selection(make_selection.SELECTION), make_selection.made()
    assert found.info == expected.info
    assert (found.samples_M.tolist(), found.samples_M.dtype) == ([1, 4, 6], np.int64)
    assert found.weight_M is not None
    assert (found.weight_M.tolist(), found.weight_M.dtype) == ([0.5, 1.0, 1.5], np.float32)
    table = pa.ipc.open_file(pa.memory_map(str(make_selection.SELECTION))).read_all()
    content = json.loads(table.schema.metadata[b"logitstore"])
    checksum = content.pop("checksum")
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    columns = np.array([1, 4, 6], "<i8").tobytes() + np.array([0.5, 1, 1.5], "<f4").tobytes()
    assert checksum == xxhash.xxh3_128_hexdigest(canonical + columns)
    names = set(content) | {"checksum", "sample", "weight"} | set(content["chosen"])
    assert not {name for name in names if f"`{name}`" not in SPECIFICATION.read_text(encoding="utf-8")}


def test_a_selection_fits_every_cache_of_the_same_data(
    cache: logitstore.Cache, reference_scores: logitstore.Cache, half: Path
) -> None:
    read_selection(half).check(cache, half)
    read_selection(half).check(reference_scores, half)


def test_a_selection_that_was_cut_short_or_changed_is_refused(cache: logitstore.Cache, tmp_path: Path) -> None:
    out, written = selection_of(cache, tmp_path, method="llkd")
    assert written.weight_M is not None
    whole = out.read_bytes()
    for size in (0, 1, 8, len(whole) // 2, len(whole) - 1):
        out.write_bytes(whole[:size])
        with pytest.raises(BadInput, match="selection"):
            read_selection(out)
    body = whole.index(b"ARROW1") + 8
    for place in range(body, len(whole) - 8, 7):
        out.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = read_selection(out)
        except BadInput:
            continue
        # what is not looked at, such as padding, says nothing
        assert (found.info, found.checksum) == (written.info, written.checksum)
        np.testing.assert_array_equal(found.samples_M, written.samples_M)
        np.testing.assert_array_equal(found.weight_M, written.weight_M)


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> None:
    """Change a selection by hand: its JSON, and its columns."""
    table = pa.ipc.open_file(pa.BufferReader(path.read_bytes())).read_all()
    content = json.loads(table.schema.metadata[b"logitstore"])
    columns = {name: table.column(name).to_numpy().copy() for name in table.column_names}
    change(content, columns)
    fields = [pa.field(name, pa.from_numpy_dtype(value.dtype), nullable=False) for name, value in columns.items()]
    schema = pa.schema(fields, metadata={b"logitstore": json.dumps(content).encode()})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.record_batch([pa.array(value) for value in columns.values()], schema=schema))


HOSTILE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "another format": (lambda content, _: content.update(format="zarr"), "no selection of logitstore's"),
    "newer": (lambda content, _: content.update(version=2, news=1), "Install a newer logitstore"),
    "version of another kind": (lambda content, _: content.update(version="1"), "version"),
    "unknown key": (lambda content, _: content.update(extra=1), "extra"),
    "missing key": (lambda content, _: content.pop("method"), "method"),
    "other checksum": (lambda content, _: content.update(checksum="0" * 32), "checksum"),
    "other method": (lambda content, _: content.update(method="top"), "checksum"),
    "other samples": (lambda _, columns: columns.update(sample=columns["sample"][::-1].copy()), "checksum"),
    "narrow numbers": (lambda _, columns: columns.update(sample=columns["sample"].astype(np.int32)), "columns"),
    "no columns": (lambda _, columns: columns.update(name=columns.pop("sample")), "columns"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_selection_is_refused_in_one_line(
    refused: Refused,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    what: str,
) -> None:
    out, _ = selection_of(cache, tmp_path, method="random", ratio=0.3)
    change, expected = HOSTILE[what]
    rewritten(out, change)
    line = refused("train", cache.path, "--student", small_student, "--select", out, "--out", tmp_path / "out")
    assert f"--select {out}" in line
    assert expected in line


@pytest.mark.parametrize("numbers", [[], [-1, 3], [3, 3], [0, 10**6], [5, 2]])
def test_numbers_that_are_not_of_samples_are_refused_also_with_the_right_checksum(
    cache: logitstore.Cache, tmp_path: Path, numbers: list[int]
) -> None:
    out, written = selection_of(cache, tmp_path, method="random", samples=2)
    forged = Selection(info=written.info, samples_M=np.array(numbers, np.int64), weight_M=None)
    write_selection(out, forged)
    with pytest.raises(BadInput, match="samples"):
        read_selection(out)


@pytest.mark.parametrize("content", [b"", b"text", None])
def test_a_file_that_is_no_selection_is_named(
    refused: Refused,
    cache: logitstore.Cache,
    small_student: Path,
    tmp_path: Path,
    content: bytes | None,
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    line = refused("train", cache.path, "--student", small_student, "--select", path, "--out", tmp_path / "out")
    assert f"--select {path}" in line


def test_a_selection_for_other_data_is_refused(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "some words to read"}\n{"text": "and some more"}\n')
    other = dump(plan_for(teacher, data, tmp_path / "other", preset="scores", k=None, domain_column=None))
    out, _ = selection_of(other, tmp_path, method="random", ratio=1.0)
    with pytest.raises(CacheMismatch, match="made for other samples"):
        train(training(cache, tmp_path / "out", small_student, select=out))


@pytest.mark.parametrize("kind", [folder, pipe, link_to_a_device, listening_socket, sparse, empty, cut])
def test_a_selection_that_is_no_plain_file_is_neither_waited_for_nor_read_whole(
    cache: logitstore.Cache, tmp_path: Path, kind: Callable[[Path], None]
) -> None:
    path, _ = selection_of(cache, tmp_path, method="random", ratio=0.5)
    assert len(read_selection(path).samples_M)
    kind(path)
    with pytest.raises(BadInput, match="--select"):
        read_selection(path)
