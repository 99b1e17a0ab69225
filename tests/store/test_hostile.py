"""Paths, links and shapes in a cache that would lead outside or exhaust the memory are refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

import logitstore
from logitstore.errors import CacheDamaged
from logitstore.store.checks.verify import repair, verify
from logitstore.store.rows import map_rows
from tests.golden import make
from tests.parts.files import tree
from tests.parts.specification import adopt, assert_same, golden_copy, read_from_the_specification, tamper

pytestmark = pytest.mark.attack

OUTSIDE = [
    "../../etc/passwd",
    "shared/../../etc/passwd",
    "..",
    "/etc/passwd",
    "//etc/passwd",
    "..\\..\\etc\\passwd",
    "shared\\x",
    "C:/etc/passwd",
    "C:x",
    "shared/x\0.txt",
    ".",
    "",
]
SEAL_OF_NOTHING = {"bytes": 0, "xxh3_128": "0" * 32}


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_plan_that_names_a_shared_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["shared"].update({path: SEAL_OF_NOTHING}))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_plan_whose_tail_is_a_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "cache.json", lambda plan: plan["tail"].update(file=path))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_part_that_names_a_file_outside_is_refused(tmp_path: Path, path: str) -> None:
    folder = golden_copy(tmp_path)
    tamper(folder / "parts/00000/part.json", lambda record: record["files"].update({path: SEAL_OF_NOTHING}))
    with pytest.raises(CacheDamaged, match="outside the cache"):
        logitstore.open(folder)[0]
    assert [problem.part for problem in verify(folder)] == [0]


@pytest.mark.parametrize("name", ["../../../../outside/ids", "/etc", "ids/../ids", "a\\b", "..", ""])
def test_a_field_whose_name_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    shutil.copytree(folder / "parts/00000/rows.zarr/ids", tmp_path / "outside/ids")
    tamper(folder / "cache.json", lambda plan: plan["fields"].update({name: plan["fields"]["ids"]}))
    adopt(folder)
    with pytest.raises(CacheDamaged, match="field"):
        logitstore.open(folder)


LINKS = [
    "parts",
    "parts/00000",
    "parts/00000/samples.arrow",
    "parts/00000/rows.zarr/ids/c/0/0",
    "parts/00000/part.json",
]


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("name", LINKS)
def test_a_link_that_leads_outside_is_not_followed(tmp_path: Path, name: str, listed: bool) -> None:
    folder = golden_copy(tmp_path)
    if not listed:
        tamper(folder / "parts/00000/part.json", lambda record: record["files"].clear())
    shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)[0]
    assert verify(folder)


def test_a_linked_shared_file_is_a_problem_and_is_not_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    shutil.move(folder / "shared/notes.txt", tmp_path / "outside")
    (folder / "shared/notes.txt").symlink_to(tmp_path / "outside")
    (problem,) = verify(folder)
    assert "leads outside the cache" in problem.what


@pytest.mark.parametrize(("name", "harmless"), [(".tokenizer.json.9e7a75b9", True), ("chat_template.jinja", False)])
def test_only_what_a_killed_writer_left_may_lie_beside_the_tokenizer(
    tmp_path: Path, cache: logitstore.Cache, name: str, harmless: bool
) -> None:
    folder = Path(shutil.copytree(cache.path, tmp_path / "cache"))
    stray = folder / cache.manifest.shared_file("tokenizer") / name
    stray.unlink(missing_ok=True)
    stray.write_text("not the tokenizer's")
    assert (verify(folder) == []) == harmless


@pytest.mark.parametrize("name", ["shared", "parts", "parts/00000", "parts/00000/samples.arrow"])
def test_repair_deletes_nothing_behind_a_link(tmp_path: Path, name: str) -> None:
    folder = golden_copy(tmp_path)
    outside = Path(shutil.move(folder / name, tmp_path / "outside"))
    if name == "shared":
        (outside / "notes.txt").write_text("mine")
    (folder / name).symlink_to(outside)
    before = tree(tmp_path / "outside") or outside.read_bytes()
    repair(folder, verify(folder))
    assert (tree(tmp_path / "outside") or outside.read_bytes()) == before
    assert not (folder / name).is_symlink()


def test_a_link_to_itself_is_damage(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    samples = folder / "parts/00000/samples.arrow"
    samples.unlink()
    samples.symlink_to(samples)
    with pytest.raises(CacheDamaged):
        logitstore.open(folder)[0]


def test_a_cache_that_stands_behind_a_link_is_read(tmp_path: Path) -> None:
    folder = golden_copy(tmp_path)
    (tmp_path / "link").symlink_to(folder)
    assert_same(read_from_the_specification(folder), logitstore.open(tmp_path / "link"))


def test_a_huge_shape_is_refused_before_any_memory_is_asked_for(tmp_path: Path) -> None:
    rows, width = 6, 1 << 60
    ids = golden_copy(tmp_path) / "parts/00000/rows.zarr/ids"
    described = json.loads((ids / "zarr.json").read_bytes())
    assert described["shape"] == [rows, 2]
    described["shape"] = described["chunk_grid"]["configuration"]["chunk_shape"] = [rows, width]
    (ids / "zarr.json").write_text(json.dumps(described))
    info = make.manifest().fields["ids"].model_copy(update={"shape": (width,)})
    with pytest.raises(CacheDamaged, match=f"{math.prod((rows, width, 2))} expected"):
        map_rows(ids.parent, {"ids": info}, rows)
