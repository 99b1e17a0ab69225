"""The index beside the parts: it says what the parts say, spares opening them, and is never believed where it is wrong."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitstore.dump.dump import dump
from logitstore.errors import CacheDamaged, CacheMismatch
from logitstore.format.sealed import seal_of_bytes, unseal
from logitstore.report.summary import summarise
from logitstore.store import cache as cache_module
from logitstore.store import local_disk
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import repair, verify
from logitstore.store.index import columns
from logitstore.store.index import index as index_module
from logitstore.store.index.columns import in_order
from logitstore.store.index.stored import IndexInfo
from logitstore.store.local_disk import LocalDisk
from tests.parts.calls import calls_below
from tests.parts.specification import tamper
from tests.parts.taps import small_taps_plan

INDEX = "sidecars/index/cache/index.json"


@pytest.fixture(autouse=True)
def _any_size(cache: Cache, image_cache: Cache, tapped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let caches of two parts have an index, and let it be trusted at once; those that other tests use are there before."""
    monkeypatch.setattr(index_module, "LEAST_PARTS", 2)
    monkeypatch.setattr(cache_module, "LEAST_PARTS", 2)
    monkeypatch.setattr(local_disk, "YOUNG_NS", 0)


@pytest.fixture(params=["texts", "images", "tapped"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    fixture = {"texts": "cache", "images": "image_cache", "tapped": "tapped"}[request.param]
    made = request.getfixturevalue(fixture)
    return Path(shutil.copytree(made if isinstance(made, Path) else made.path, tmp_path / "cache"))


@pytest.fixture
def folder(cache: Cache, tmp_path: Path) -> Path:
    return Path(shutil.copytree(cache.path, tmp_path / "cache"))


def told(cache: Cache) -> dict[str, Any]:
    """Everything that an index says."""
    return {
        "parts": cache.part_numbers,
        "documents": cache.documents().tolist(),
        "lengths": cache.lengths().tolist(),
        "row_counts": cache.row_counts().tolist(),
        "nll": np.nan_to_num(cache.nll(), nan=-1.0).tolist(),
        "domains": cache.domains(),
        "some": cache.lengths_of(np.arange(len(cache))[::-3]).tolist(),
        "summary": summarise(cache) | {"path": None},
        "taps": {name: tap.part_numbers for name, tap in cache.taps.items()},
    }


def told_by_the_parts(folder: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "LEAST_PARTS", 1 << 60)
        return told(Cache(folder))


def test_an_index_says_what_the_parts_say_and_then_no_part_is_looked_at(kind: Path) -> None:
    expected = told_by_the_parts(kind)
    assert not (kind / "sidecars").exists()
    assert told(Cache(kind)) == expected
    assert (kind / INDEX).is_file()
    with calls_below(kind) as calls:
        assert told(Cache(kind)) == expected
    of_parts = [call for call in calls if "parts" in call]
    assert of_parts == []
    assert f"open {INDEX}" in calls


def test_few_parts_have_no_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    told(Cache(folder))
    assert not (folder / "sidecars").exists()


def drop(folder: Path, number: int) -> None:
    LocalDisk(folder).remove(f"parts/{number:05d}")


def test_only_new_parts_are_read_when_parts_come_and_go(folder: Path, tmp_path: Path) -> None:
    aside = Path(shutil.copytree(folder / "parts", tmp_path / "aside"))
    drop(folder, 1)
    told(Cache(folder))
    before = (folder / INDEX).read_bytes()
    shutil.copytree(aside / "00001", folder / "parts/00001")
    drop(folder, 2)
    opened: list[int] = []
    cache = Cache(folder)
    real = cache.index._open_samples
    assert real is not None
    cache.index._open_samples = lambda number: opened.append(number) or real(number)  # type: ignore[func-returns-value]
    assert told(cache) == told_by_the_parts(folder)
    assert opened == [1]
    assert (folder / INDEX).read_bytes() != before
    with calls_below(folder) as calls:
        assert told(Cache(folder)) == told_by_the_parts(folder)
    assert "listdir parts" not in calls[: calls.index(f"open {INDEX}")]


def edit(name: str) -> Callable[[Path], object]:
    """Change one value of a column."""

    def change(folder: Path) -> None:
        path = next((folder / "sidecars/index/cache").glob(f"{name}-*.bin"))
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)

    return change


def of_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return lambda folder: tamper(folder / INDEX, change)


def cut(folder: Path) -> None:
    for path in (folder / "sidecars/index/cache").glob("*.bin"):
        path.write_bytes(path.read_bytes()[:-1])


def without_columns(folder: Path) -> None:
    for path in (folder / "sidecars/index/cache").glob("*.bin"):
        path.unlink()


def swapped(folder: Path) -> None:
    """Give two columns each other's files, seals and all."""
    tamper(
        folder / INDEX,
        lambda info: info["columns"].update(
            lengths=info["columns"]["row_counts"], row_counts=info["columns"]["lengths"]
        ),
    )
    home = folder / "sidecars/index/cache"
    for one, other in (("lengths", "row_counts"), ("row_counts", "lengths")):
        for path in list(home.glob(f"{one}-*.bin")):
            shutil.copy(path, path.with_name(path.name.replace(one, other, 1)))


def of_another_cache(folder: Path) -> None:
    tamper(folder / INDEX, lambda info: info.update(plan="0" * 32))


WRONG: dict[str, Callable[[Path], object]] = {
    **{f"edited {name}": edit(name) for name in ("digests", "facts", "lengths", "row_counts", "documents", "nll")},
    **{f"edited {name}": edit(name) for name in ("domains", "domain_text", "domain_ends", "sizes")},
    "cut": cut,
    "without columns": without_columns,
    "swapped": swapped,
    "of another cache": of_another_cache,
    "no json": lambda folder: (folder / INDEX).write_bytes(b"{"),
    "empty": lambda folder: (folder / INDEX).write_bytes(b""),
    "unsealed": lambda folder: (folder / INDEX).write_bytes((folder / INDEX).read_bytes().replace(b"true", b"false")),
    "more parts": of_index(lambda info: info.update(parts=1 << 40, planned=1 << 41)),
    "fewer parts": of_index(lambda info: info.update(parts=1)),
    "no parts": of_index(lambda info: info.update(parts=0, samples=0)),
    "other samples": of_index(lambda info: info.update(samples=info["samples"] + 1)),
    "without numbers": of_index(lambda info: info.update(are_first=False)),
    "other files": of_index(lambda info: info.update(files=info["files"][1:])),
    "of later times": of_index(lambda info: info.update(version=2)),
    "outside": of_index(lambda info: info["columns"].update({"../../../cache": info["columns"]["nll"]})),
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_wrong_index_is_made_again(folder: Path, wrong: str) -> None:
    expected = told(Cache(folder))
    WRONG[wrong](folder)
    assert told(Cache(folder)) == expected
    Cache(folder).check_sizes()
    with calls_below(folder) as calls:
        assert told(Cache(folder)) == expected
    assert wrong == "outside" or [call for call in calls if "parts" in call] == []


def test_parts_that_come_back_with_their_old_times_are_seen(folder: Path, tmp_path: Path) -> None:
    expected = told(Cache(folder))
    parts, times = folder / "parts", (folder / "parts").stat()
    shutil.move(parts / "00001", tmp_path / "aside")
    os.utime(parts, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert parts.stat().st_mtime_ns == times.st_mtime_ns
    assert 1 not in Cache(folder).part_numbers
    assert told(Cache(folder)) == told_by_the_parts(folder)
    shutil.move(tmp_path / "aside", parts / "00001")
    os.utime(parts, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert told(Cache(folder)) == expected


def test_an_index_that_was_copied_with_its_cache_or_is_older_than_it_is_not_fresh(folder: Path, tmp_path: Path) -> None:
    expected = told(Cache(folder))
    older = Path(shutil.copytree(folder / "sidecars", tmp_path / "older"))
    drop(folder, 0)
    fewer = told(Cache(folder))
    assert fewer != expected
    shutil.rmtree(folder / "sidecars")
    shutil.copytree(older, folder / "sidecars")
    assert told(Cache(folder)) == fewer
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    drop(copy, 1)
    assert told(Cache(copy)) == told_by_the_parts(copy)


def test_a_part_that_changed_in_its_place_is_refused_once(folder: Path) -> None:
    told(Cache(folder))
    record = folder / "parts/00001/part.json"
    tamper(record, lambda content: content["sums"].update(tail_mass=content["sums"]["tail_mass"] / 2))
    cache = Cache(folder)
    first = cache.first_sample(1)
    _ = cache[0]
    with pytest.raises(CacheMismatch, match=r"part 00001 is not the one that sidecars/index/cache tells of"):
        _ = cache[first]
    assert not (folder / INDEX).exists()
    again = Cache(folder)
    _ = again[first]
    assert told(again) == told_by_the_parts(folder)


@pytest.mark.parametrize("name", ["lengths", "documents", "nll"])
def test_a_column_that_lies_under_a_right_seal_is_refused_where_its_part_is_opened(folder: Path, name: str) -> None:
    told(Cache(folder))
    home = folder / "sidecars/index/cache"
    path = next(home.glob(f"{name}-*.bin"))
    raw = bytearray(path.read_bytes())
    raw[:2] = (raw[1], raw[0]) if name == "lengths" else (raw[0] ^ 1, raw[1])
    path.unlink()
    seal = seal_of_bytes(bytes(raw)).model_dump()
    (home / f"{name}-{seal['xxh3_128'][:16]}.bin").write_bytes(raw)
    tamper(folder / INDEX, lambda info: info["columns"][name].update(seal=seal))
    with pytest.raises(CacheMismatch, match="give the same command again"):
        _ = Cache(folder)[0]
    assert Cache(folder)[0].sample.document == 0


def test_a_record_that_is_gone_without_its_folder_is_named(folder: Path) -> None:
    told(Cache(folder))
    (folder / "parts/00001/part.json").unlink()
    cache = Cache(folder)
    with pytest.raises(CacheMismatch, match="part 00001 is not the one"):
        _ = cache[cache.first_sample(1)]
    assert 1 not in Cache(folder).part_numbers


def test_more_views_make_an_index_stale(image_cache: Cache, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(image_cache.path, tmp_path / "cache"))
    told(Cache(folder))
    info = unseal(IndexInfo, folder / INDEX)
    tamper(folder / "cache.json", lambda plan: plan.update(views=plan["views"] + 1))
    with calls_below(folder) as calls:
        cache = Cache(folder)
    assert "listdir parts" in calls
    assert (cache.complete, len(cache)) == (False, info.samples)
    told(cache)
    assert unseal(IndexInfo, folder / INDEX).planned == cache.manifest.parts


def test_where_nothing_can_be_written_the_index_is_kept_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = told_by_the_parts(folder)

    def refuse(*_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(LocalDisk, "put", refuse)
    cache = Cache(folder)
    assert told(cache) == expected
    with calls_below(folder) as calls:
        assert told(cache) == expected
    assert [call for call in calls if "parts" in call] == []
    assert not (folder / INDEX).exists()


@pytest.mark.parametrize("place", ["sidecars", "sidecars/index", "sidecars/index/cache"])
@pytest.mark.parametrize("what", ["a link outside", "a file"])
def test_nothing_is_written_where_something_else_stands(folder: Path, tmp_path: Path, place: str, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine.bin").touch()
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    if what == "a file":
        (folder / place).touch()
    else:
        (folder / place).symlink_to(outside)
    assert told(Cache(folder)) == told_by_the_parts(folder)
    assert os.listdir(outside) == ["mine.bin"]
    assert (folder / place).is_symlink() == (what == "a link outside")


def test_many_readers_make_one_index(folder: Path) -> None:
    expected = told_by_the_parts(folder)
    with ThreadPoolExecutor(4) as pool:
        assert all(found == expected for found in pool.map(lambda _: told(Cache(folder)), range(8)))
    names = {path.name.partition("-")[0] for path in (folder / "sidecars/index/cache").iterdir()}
    assert len(names) == len(list((folder / "sidecars/index/cache").iterdir()))
    assert told(Cache(folder)) == expected


def test_a_stamp_is_given_only_when_the_folder_has_been_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = LocalDisk(tmp_path)
    assert disk.stamp("parts") is None
    (tmp_path / "parts").mkdir()
    before = disk.stamp("parts")
    assert before is not None
    (tmp_path / "parts/00000").mkdir()
    assert disk.stamp("parts") not in (None, before)
    monkeypatch.setattr(local_disk, "YOUNG_NS", 3_000_000_000)
    assert disk.stamp("parts") is None
    later = (tmp_path / "parts").stat().st_mtime_ns + 10_000_000_000
    os.utime(tmp_path / "parts", ns=(later, later))
    monkeypatch.setattr(local_disk, "YOUNG_NS", 0)
    assert disk.stamp("parts") is None


def test_an_index_of_a_young_folder_is_trusted_from_the_next_reader_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as young:
        young.setattr(local_disk, "YOUNG_NS", 1 << 62)
        told(Cache(folder))
    assert json.loads((folder / INDEX).read_bytes())["stamp"] is None
    columns = {path.name: path.stat().st_ino for path in (folder / INDEX).parent.glob("*.bin")}
    with calls_below(folder) as calls:
        told(Cache(folder))
    assert "listdir parts" in calls
    assert json.loads((folder / INDEX).read_bytes())["stamp"] is not None
    assert {path.name: path.stat().st_ino for path in (folder / INDEX).parent.glob("*.bin")} == columns


def test_a_file_that_is_cut_is_found_behind_and_named_by_the_loader(folder: Path) -> None:
    told(Cache(folder))
    chunk = folder / "parts/00002/rows.zarr/entropy/c/0"
    os.truncate(chunk, chunk.stat().st_size - 1)
    cache = Cache(folder)
    cache.check_soon()
    assert cache._soon is not None
    cache._soon.wait()
    with pytest.raises(CacheDamaged, match=r"parts/00002/rows.zarr/\S+ has \d+ bytes instead of \d+"):
        cache.loader(batch_size=1, shuffle=False).at(0, 0)


@pytest.mark.parametrize("codes", [[], [0], [2, 2, 0, 1, 0, 2], [3, 1]])
def test_names_come_in_the_order_of_the_samples(codes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_BLOCK", 2)
    names: list[str | None] = [None, "a", "b", "c"]
    found, numbers = in_order(names, np.array(codes, np.uint8))
    said = [names[code] for code in codes]
    assert found == list(dict.fromkeys(said))
    assert [found[number] for number in numbers] == said


def test_a_dump_leaves_an_index_for_the_cache_and_its_taps_and_stays_right_when_parts_are_repaired(
    teacher: Path, texts: Path, tmp_path: Path
) -> None:
    plan = small_taps_plan(teacher, texts, tmp_path / "cache", limit=8, samples_per_part=2, hidden="final")
    folder = dump(plan.model_copy(update={"parts": "0-1"})).path
    assert isinstance(folder, Path)
    assert not (folder / "sidecars").exists()
    dump(plan)
    assert sorted(os.listdir(folder / "sidecars/index")) == ["cache", "final"]
    expected = told_by_the_parts(folder)
    for _ in range(2):
        with calls_below(folder) as calls:
            assert told(Cache(folder)) == expected
    assert [call for call in calls if "parts" in call] == []
    (folder / "parts/00001/samples.arrow").unlink()
    (folder / "taps/final/parts/00000/part.json").write_bytes(b"{}")
    repair(folder, verify(folder))
    assert told(Cache(folder)) == told_by_the_parts(folder) != expected
    dump(plan)
    assert told(Cache(folder)) == expected
    assert verify(folder) == []
