"""A cache is copied as it is, between any two storages: whole or in part, again and again, and never with damage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch, StorageError
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.store.local_disk import LocalDisk
from logitstore.store.remote.objects import Objects
from logitstore.store.transfer.copy import Copied, Extent, copy_cache, parse_taps
from logitstore.store.transfer.status import status
from tests.parts.files import tree
from tests.parts.texts import plan_for

Far = Callable[[str], str]


@pytest.fixture(scope="module")
def plan(teacher: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> DumpSettings:
    out = tmp_path_factory.mktemp("pushed") / "cache"
    return plan_for(teacher, texts, out, samples_per_part=4, limit=12, hidden="1", tap_codec="int8")


@pytest.fixture(scope="module")
def source(plan: DumpSettings) -> Path:
    """A complete cache with a tap; do not change it."""
    dump(plan)
    return Path(plan.out)


@pytest.fixture
def own(source: Path, tmp_path: Path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(source, tmp_path / "own"))


def kept(folder: Path) -> dict[str, bytes]:
    """The files of a cache; what lies beside it is not part of it."""
    return {name: content for name, content in tree(folder).items() if not name.startswith("sidecars")}


def test_what_is_pushed_and_pulled_has_the_same_bytes(source: Path, far: Far, tmp_path: Path) -> None:
    parts = 2 * len(Cache(source).part_numbers)
    pushed = copy_cache(source, far("cache"), Extent())
    assert (pushed.copied, pushed.there, pushed.damaged, pushed.lacking) == (parts, 0, [], 0)
    assert verify(far("cache")) == []
    pulled = copy_cache(far("cache"), tmp_path / "pulled", Extent())
    assert pulled == pushed
    assert kept(tmp_path / "pulled") == kept(source)
    # between two places far away the objects are the same too
    copy_cache(far("cache"), far("second"), Extent())
    first, second = Objects(far("cache")), Objects(far("second"))
    names = [found.name for found in first.below("") if not found.name.startswith("sidecars")]
    assert {name: first.read(name) for name in names} == {name: second.read(name) for name in names}


def test_what_is_there_is_not_copied_again(source: Path, far: Far, requests: list[str]) -> None:
    copy_cache(source, far("cache"), Extent(parts="0-1", taps=[]))
    some = Cache(far("cache"))
    assert (some.part_numbers, list(some.taps)) == ([0, 1], [])
    requests.clear()
    again = copy_cache(source, far("cache"), Extent(taps=[]))
    assert (again.there, again.copied) == (2, len(Cache(source).part_numbers) - 2)
    written = [request for request in requests if request.startswith("put")]
    assert sum("/parts/" in request for request in written) == again.copied
    requests.clear()
    assert copy_cache(source, far("cache"), Extent(taps=[])).copied == 0
    assert not any("/parts/" in request for request in requests if request.startswith("put"))


def test_a_part_costs_one_request_and_one_more_where_it_is_there(source: Path, far: Far, requests: list[str]) -> None:
    for expected in ("put", "get"):
        requests.clear()
        copy_cache(source, far("cache"), Extent(taps=[]))
        of_parts = [request.partition(" ")[0] for request in requests if request.endswith(".zip")]
        assert of_parts == [expected] * len(Cache(source).part_numbers)


def test_a_damaged_part_is_named_and_not_copied(own: Path, far: Far, tmp_path: Path, plan: DumpSettings) -> None:
    names = sorted(path for path in (own / "parts" / "00001").rglob("*") if path.name == "samples.arrow")
    names[0].write_bytes(names[0].read_bytes()[:-1] + b"x")
    (own / "parts" / "00002" / "rows.zarr" / "zarr.json").unlink()
    found = copy_cache(own, far("cache"), Extent(taps=[]))
    assert [line.partition(": ")[2].partition(" is")[0] for line in found.damaged] == [
        "parts/00001/samples.arrow",
        "parts/00002/rows.zarr/zarr.json",
    ]
    assert Cache(far("cache")).part_numbers == [part for part in Cache(own).part_numbers if part not in (1, 2)]
    assert dump(plan.model_copy(update={"out": far("cache")})).complete
    # damage in a store is found in the same way
    objects = Objects(far("cache"))
    content = bytearray(objects.read("parts/00000.zip"))
    content[len(content) // 2] ^= 1
    objects.put("parts/00000.zip", bytes(content))
    found = copy_cache(far("cache"), tmp_path / "pulled", Extent())
    assert len(found.damaged) == 1
    assert "parts/00000.zip" in found.damaged[0]
    assert 0 not in Cache(tmp_path / "pulled").part_numbers
    assert verify(tmp_path / "pulled") == []


def test_a_damaged_shared_file_stops_the_copy_before_anything_can_be_read(own: Path, far: Far) -> None:
    name = next(iter(Cache(own).manifest.shared))
    (own / name).write_bytes(b"")
    with pytest.raises(CacheDamaged, match="is not what its seal says"):
        copy_cache(own, far("cache"), Extent())
    assert Objects(far("cache")).head("cache.json") is None


def test_a_target_with_something_else_is_refused(
    source: Path, teacher: Path, texts: Path, far: Far, tmp_path: Path
) -> None:
    dump(plan_for(teacher, texts, far("other"), samples_per_part=4, limit=6))
    with pytest.raises(CacheMismatch, match="another cache is there"):
        copy_cache(source, far("other"), Extent())
    Objects(far("files")).put("letter.txt", b"a")
    with pytest.raises(BadInput, match="it holds other files"):
        copy_cache(source, far("files"), Extent())
    with pytest.raises(BadInput, match="it is the source itself"):
        copy_cache(source, source, Extent())
    with pytest.raises(BadInput, match="it lies inside of"):
        copy_cache(source, source / "copy", Extent())
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="a file stands there"):
        copy_cache(source, tmp_path / "file", Extent())
    with pytest.raises(BadInput, match="this cache has parts 0 to"):
        copy_cache(source, tmp_path / "new", Extent(parts="0-9999"))
    with pytest.raises(BadInput, match="it has no tap 'hidden-7'"):
        copy_cache(source, tmp_path / "new", Extent(taps=parse_taps("hidden-7")))
    assert not (tmp_path / "new").exists()


def test_a_part_with_other_bytes_is_left_as_it_is(own: Path, source: Path, tmp_path: Path) -> None:
    copy_cache(source, tmp_path / "copy", Extent(taps=[]))
    record = tmp_path / "copy" / "parts" / "00000" / "part.json"
    record.write_bytes(record.read_bytes()[:-36] + b"0" * 32 + b'"\n}\n')
    before = tree(tmp_path / "copy" / "parts" / "00000")
    assert copy_cache(source, tmp_path / "copy", Extent(taps=[])).others == ["parts/00000"]
    assert tree(tmp_path / "copy" / "parts" / "00000") == before


def test_an_error_leaves_whole_parts_and_nothing_else(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full from the third commit on."""
    commits = 0
    commit = LocalDisk.commit

    def full(self: LocalDisk, part: int, staged: Path) -> None:
        nonlocal commits
        commits += 1
        if commits > 2:
            raise OSError(28, "No space left on device", str(staged))
        commit(self, part, staged)

    with monkeypatch.context() as patch:
        patch.setattr(LocalDisk, "commit", full)
        with pytest.raises(StorageError, match="no space left"):
            copy_cache(source, tmp_path / "copy", Extent(streams=1))
    assert len(Cache(tmp_path / "copy").part_numbers) == 2
    assert [path.name for path in (tmp_path / "copy" / "parts").iterdir() if "partial" in path.name] == []
    rest = copy_cache(source, tmp_path / "copy", Extent())
    assert (rest.there, rest.copied) == (2, 2 * len(Cache(source).part_numbers) - 2)
    assert kept(tmp_path / "copy") == kept(source)


def test_a_far_copy_of_many_parts_has_the_index_of_its_source(
    teacher: Path, texts: Path, tmp_path: Path, far: Far, requests: list[str]
) -> None:
    dump(plan_for(teacher, texts, tmp_path / "many", samples_per_part=1, limit=70))
    assert copy_cache(tmp_path / "many", far("cache"), Extent()) == Copied(
        copied=len(Cache(tmp_path / "many").part_numbers),
        bytes=Cache(tmp_path / "many").index.bytes_below(""),
    )
    requests.clear()
    assert Cache(far("cache")).complete
    assert not any(request.startswith("list") for request in requests)
    assert verify(far("cache")) == []


def test_a_storage_of_another_package_needs_no_more_than_the_protocol(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "parts" / "plugin"))
    address = f"mem://{tmp_path.name}/cache"
    assert copy_cache(source, address, Extent()).copied == 2 * len(Cache(source).part_numbers)
    assert [(each.missing, each.idle_seconds) for each in status(address)] == [([], None), ([], None)]
    assert copy_cache(address, tmp_path / "pulled", Extent()).damaged == []
    assert kept(tmp_path / "pulled") == kept(source)
