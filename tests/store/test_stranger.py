"""Records, files and rows of a cache from a stranger, behind valid seals: refused at once, and nothing outside is touched."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

import logitstore
from logitstore.errors import CacheDamaged
from logitstore.format.sealed import DEEPEST, LARGEST, seal_of
from logitstore.store.checks.verify import repair, verify
from logitstore.store.samples import open_arrow
from logitstore.store.vocabulary import Vocabulary, read_pieces
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.specification import adopt, golden_copy, tamper
from tests.store.checks.test_invariants import change_rows, change_samples, put, reseal

pytestmark = pytest.mark.attack

FILES = [
    "cache.json",
    "shared/notes.txt",
    "parts/00000/part.json",
    "parts/00000/samples.arrow",
    "parts/00000/rows.zarr/ids/zarr.json",
    "parts/00000/rows.zarr/ids/c/0/0",
]


def link_inside(path: Path) -> None:
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(aside)


def link_to_a_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def sparse(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(5 << 30)


@pytest.mark.parametrize("spoil", [link_inside, link_to_a_device, pipe, folder, sparse])
@pytest.mark.parametrize("name", FILES)
def test_what_is_no_plain_file_of_its_size_is_refused(tmp_path: Path, name: str, spoil: Callable[[Path], None]) -> None:
    cache = golden_copy(tmp_path)
    spoil(cache / name)
    if name == "cache.json":
        with pytest.raises(logitstore.errors.LogitstoreError):
            logitstore.open(cache)
        return
    assert verify(cache)
    # a part whose record is no file is no part, so the others are read
    if name.startswith("parts") and (name != "parts/00000/part.json" or spoil in (link_inside, sparse)):
        with pytest.raises(logitstore.errors.LogitstoreError):
            logitstore.open(cache)[0]


@pytest.mark.parametrize("name", ["cache.json", "parts/00000/part.json"])
@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 100_000])
def test_a_deep_record_is_refused(tmp_path: Path, name: str, depth: int) -> None:
    cache = golden_copy(tmp_path)
    raw = (cache / name).read_text()
    (cache / name).write_text(raw.replace('"version": 1', f'"version": {"[" * depth}1{"]" * depth}', 1))
    with pytest.raises(CacheDamaged):
        logitstore.open(cache)[0]


def test_a_record_larger_than_any_is_not_read(tmp_path: Path) -> None:
    cache = golden_copy(tmp_path)
    with (cache / "cache.json").open("ab") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CacheDamaged, match="larger than"):
        logitstore.open(cache)


def set_at(*path: Any) -> Callable[[dict[str, Any]], None]:
    *steps, name, value = path

    def change(record: dict[str, Any]) -> None:
        for step in steps:
            record = record[step]
        record[name] = value

    return change


@pytest.mark.parametrize("value", ["6", 6.0, True, -1, 10**30, float("nan"), float("inf"), None, [], {}])
@pytest.mark.parametrize("name", ["samples", "rows", "tokens", "samples_per_part", "batch_tokens", "views"])
def test_a_count_of_another_type_or_range_is_damage(tmp_path: Path, name: str, value: object) -> None:
    cache = golden_copy(tmp_path)
    tamper(cache / "cache.json", set_at(name, value))
    with pytest.raises(CacheDamaged):
        logitstore.open(cache)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), "1", True, None])
@pytest.mark.parametrize("name", ["tail_mass", "entropy", "gold_logprob"])
def test_a_sum_that_is_no_number_is_damage(tmp_path: Path, name: str, value: object) -> None:
    cache = golden_copy(tmp_path)
    tamper(cache / "parts/00000/part.json", set_at("sums", name, value))
    assert [problem.part for problem in verify(cache)] == [0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tail_mass", -5.0),
        ("tail_mass", 1e9),
        ("entropy", -5.0),
        ("gold_logprob", 5.0),
        ("no_gold", -1),
        ("no_gold", 1000),
    ],
)
def test_a_sum_that_no_rows_have_is_damage(tmp_path: Path, name: str, value: float) -> None:
    cache = golden_copy(tmp_path)
    tamper(cache / "parts/00000/part.json", set_at("sums", name, value))
    assert [problem.part for problem in verify(cache)] == [0]


@pytest.mark.parametrize("name", ["parts", "parts/00000", "cache.json", "taps", "sidecars/x"])
def test_a_plan_that_names_a_shared_file_elsewhere_is_refused_and_repair_removes_nothing(
    tmp_path: Path, name: str
) -> None:
    cache = golden_copy(tmp_path)
    tamper(cache / "cache.json", lambda plan: plan["shared"].update({name: {"bytes": 0, "xxh3_128": "0" * 32}}))
    before = tree(cache)
    with pytest.raises(CacheDamaged, match="shared"):
        logitstore.open(cache)
    try:
        repair(cache, verify(cache))
    except logitstore.errors.LogitstoreError:
        assert tree(cache) == before
    assert {name for name in before if name.startswith("parts/")} <= tree(cache).keys()


@pytest.mark.parametrize("codec", ["zstd", "lz4"])
def test_compressed_buffers_are_refused_before_they_are_inflated(codec: str) -> None:
    batch = pa.record_batch([pa.array(np.zeros(1 << 20, np.int64))], ["zeros"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
        writer.write_batch(batch)
    with pytest.raises(pa.ArrowInvalid, match="compressed"):
        open_arrow(pa.BufferReader(sink.getvalue()))


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_no_command_reads_samples_whose_buffers_are_compressed(
    small_copy: Path, small_student: Path, refused: Refused, tmp_path: Path
) -> None:
    path = small_copy / "parts/00001/samples.arrow"
    batch = pa.ipc.open_file(path.read_bytes()).get_batch(0)
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    reseal(small_copy, 1)
    assert ["its buffers are compressed" in problem.what for problem in verify(small_copy)] == [True]
    sample = logitstore.open(small_copy).manifest.span(1).start
    student = ("--student", small_student, "--device", "cpu")
    for command, *rest in (
        ("inspect", small_copy, "--sample", sample),
        ("train", small_copy, *student, "--out", tmp_path / "student"),
        ("evaluate", small_copy, *student),
        ("recode", small_copy, "--layout", "archive", "--out", tmp_path / "recoded"),
        ("select", small_copy, "--method", "random", "--ratio", 0.5, "--out", tmp_path / "file"),
    ):
        assert "its buffers are compressed" in refused(command, *rest)


def test_an_arrow_file_with_any_byte_changed_opens_or_is_refused(tmp_path: Path) -> None:
    raw = (golden_copy(tmp_path) / "parts/00000/samples.arrow").read_bytes()
    for place in range(0, len(raw), 7):
        changed = raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :]
        path = tmp_path / "changed.arrow"
        path.write_bytes(changed)
        try:
            logitstore.store.samples.map_batch(path, pa.schema([]))
        except CacheDamaged:
            continue


ROWS = [
    ("ids", put((3, 7), 65_000)),
    ("logprobs", put((3, 0), 0.25)),
    ("logprobs", put((3, 7), np.nan)),
    ("logprobs", put((3, 7), -np.nan)),
    ("tail_logmass", put(3, np.nan)),
    ("tail_logmass", put(3, 0.5)),
    ("gold_logprob", put(3, 0.5)),
    ("gold_logprob", put(3, np.nan)),
    ("entropy", put(3, np.nan)),
    ("entropy", put(3, -0.5)),
]


@pytest.mark.parametrize("task", ["text"], indirect=True)
@pytest.mark.parametrize(("field", "change"), ROWS)
def test_impossible_values_behind_valid_seals_never_reach_a_batch(
    small_copy: Path, field: str, change: Callable[[Any], None]
) -> None:
    change_rows(small_copy, 1, field, change)
    reseal(small_copy, 1)
    cache = logitstore.open(small_copy)
    with pytest.raises(CacheDamaged, match=field):
        list(cache.loader(batch_size=4, workers=0))
    with pytest.raises(CacheDamaged, match=field):
        list(cache)


@pytest.mark.parametrize("task", ["text"], indirect=True)
def test_no_command_learns_from_impossible_values(
    small_copy: Path, small_student: Path, refused: Refused, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(small_copy, tmp_path / "other"))
    for part in range(3):
        change_rows(small_copy, part, "logprobs", put((slice(None), 0), np.nan))
        reseal(small_copy, part)
    for command, *options in (
        ("train", small_copy, "--student", small_student, "--device", "cpu", "--out", tmp_path / "student"),
        ("evaluate", small_copy, "--student", small_student, "--device", "cpu"),
        ("recode", small_copy, "--layout", "archive", "--out", tmp_path / "recoded"),
        ("merge", small_copy, other, "--preset", "topk", "--out", tmp_path / "merged"),
        ("select", small_copy, "--score", "confidence", "--method", "top", "--ratio", 0.5, "--out", tmp_path / "file"),
        ("select", small_copy, "--method", "llkd", "--out", tmp_path / "file"),
    ):
        assert "logprobs: a logprob is positive or NaN" in refused(command, *options)


@pytest.mark.parametrize("task", ["images"], indirect=True)
def test_a_label_without_its_logprob_never_reaches_a_batch(small_copy: Path) -> None:
    views = logitstore.open(small_copy).samples_of(1)
    labelled = int(np.flatnonzero(views.labels_S >= 0)[0])  # type: ignore[attr-defined]
    change_rows(small_copy, 1, "gold_logprob", put(labelled, np.nan))
    reseal(small_copy, 1)
    cache = logitstore.open(small_copy)
    with pytest.raises(CacheDamaged, match="gold_logprob: it is NaN where there is a gold token"):
        list(cache.loader(batch_size=4, workers=0, with_images=False))


@pytest.mark.parametrize("task", ["text"], indirect=True)
@pytest.mark.parametrize("nll", [-1.0, float("nan")])
def test_no_command_ranks_by_an_impossible_nll(
    small_copy: Path, small_student: Path, refused: Refused, tmp_path: Path, nll: float
) -> None:
    change_samples(small_copy, 1, lambda columns: columns["nll"].__setitem__(3, nll))
    reseal(small_copy, 1)
    train = ("train", small_copy, "--student", small_student, "--device", "cpu", "--out", tmp_path / "student")
    for command, *options in (
        ("select", small_copy, "--method", "top", "--score", "nll", "--ratio", 0.5, "--out", tmp_path / "file"),
        ("sidecar", small_copy, "--of", "perplexity"),
        (*train, "--curriculum", "easy-first"),
    ):
        assert "parts/00001/samples.arrow: an nll is negative or NaN" in refused(command, *options)


def test_no_command_learns_from_features_that_are_not_finite(
    tapped_copy: Path, small_student: Path, refused: Refused, tmp_path: Path
) -> None:
    """One number of them is enough to make every weight of a student NaN."""
    for chunk in tapped_copy.glob("taps/final/parts/*/rows.zarr/values/c/0/0"):
        chunk.write_bytes(np.float32(np.nan).tobytes() + chunk.read_bytes()[4:])
        folder = chunk.parents[4]
        seal = seal_of(chunk).model_dump()
        tamper(folder / "part.json", lambda record: record["files"].update({"rows.zarr/values/c/0/0": seal}))  # noqa: B023
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("train: {terms: [{name: match, options: {layers: last-1}}]}")
    train = ("train", tapped_copy, "--student", small_student, "--config", recipe, "--out", tmp_path / "student")
    for command, *options in ((*train, "--device", "cpu"), ("sidecar", tapped_copy, "--of", "means", "--tap", "final")):
        line = refused(command, *options)
        assert f"{tapped_copy}/taps/final: among the rows of the parts" in line
        assert "values: a value is not finite" in line


# scores and vectors have one name, of which the plan keeps no checksum
@pytest.mark.parametrize("task", ["text", "images", "classes", "masked"], indirect=True)
def test_a_vocabulary_that_is_changed_and_sealed_again_is_named(small_copy: Path) -> None:
    cache = logitstore.open(small_copy)
    name = cache.manifest.shared_file("vocabulary")
    pieces = read_pieces(cache).to_pylist()
    pieces[7 % len(pieces)] = "another"
    (small_copy / name).write_bytes(Vocabulary(pieces=pieces).arrow())
    seal = seal_of(small_copy / name).model_dump()
    tamper(small_copy / "cache.json", lambda plan: plan["shared"].update({name: seal}))
    adopt(small_copy)
    assert [(problem.file, problem.what) for problem in verify(small_copy)] == [
        (name, "its pieces are not those whose checksum cache.json names")
    ]
