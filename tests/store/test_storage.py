"""What every storage does, run on the local disk and on one of another package that keeps its bytes in memory."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import logitstore
from logitstore.core.place import Place
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheDamaged
from logitstore.settings.dump import DumpSettings
from logitstore.settings.look import SelectSettings, VerifySettings
from logitstore.settings.train import TrainSettings
from logitstore.store.checks.verify import repair, verify
from logitstore.store.storage import Storage, open_storage
from logitstore.train.train import train
from tests.parts.files import tree
from tests.parts.texts import plan_for

PLUGINS = Path(__file__).parents[1] / "parts" / "plugin"


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the package logitstore-memory were installed."""
    monkeypatch.syspath_prepend(str(PLUGINS))


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return tmp_path / "cache" if request.param == "disk" else f"mem://{secrets.token_hex(8)}/cache"


@pytest.fixture
def storage(place: Place) -> Storage:
    storage = open_storage(place)
    with storage.claim() as names:
        assert names == []
    return storage


def staged(storage: Storage, part: int, content: bytes) -> Path:
    """A part that is ready to be committed."""
    folder = storage.stage(part)
    (folder / "rows").mkdir()
    (folder / "rows" / "a").write_bytes(content)
    (folder / "part.json").write_bytes(b"record of " + content)
    return folder


def test_what_is_put_is_there_as_a_whole(storage: Storage) -> None:
    assert storage.size("shared/a") is None
    with pytest.raises(FileNotFoundError):
        storage.read("shared/a")
    for content in (b"one", b"", b"another" * 1000):
        storage.put("shared/a", content)
        assert storage.read("shared/a") == storage.local("shared/a").read_bytes() == content
        assert storage.size("shared/a") == len(content)
    assert storage.names("shared") == ["a"]
    assert storage.files("shared") == ["shared/a"]
    assert storage.names("nothing") == storage.files("nothing") == []


def test_a_file_is_replaced_only_as_long_as_it_is_the_known_one(storage: Storage) -> None:
    storage.put("a", b"one")
    assert not storage.swap("a", b"two", b"three")
    assert storage.read("a") == b"one"
    assert storage.swap("a", b"one", b"two")
    assert storage.read("a") == b"two"
    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(lambda number: storage.swap("a", b"two", b"by %d" % number), range(20))) == 1


def test_a_reader_sees_the_old_or_the_new_contents(storage: Storage) -> None:
    contents = {bytes([number]) * 100_000 for number in range(8)}
    storage.put("a", bytes(100_000))
    with ThreadPoolExecutor(4) as pool:
        writes = [pool.submit(storage.put, "a", content) for content in contents]
        seen = [storage.read("a") for _ in range(50)]
        for write in writes:
            write.result()
    assert contents >= set(seen)


def test_the_first_writer_wins(storage: Storage) -> None:
    for turn in range(10):
        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(lambda number: storage.put_first(f"{turn}", bytes([number])), range(8)))  # noqa: B023
        assert won.count(True) == 1
        assert storage.read(f"{turn}") == bytes([won.index(True)])


def test_a_staged_part_is_invisible_until_it_is_committed(storage: Storage) -> None:
    folder = staged(storage, 3, b"rows")
    assert storage.list_parts() == []
    assert storage.size("parts/00003/part.json") is None
    storage.commit(3, folder)
    assert storage.list_parts() == [3]
    assert not folder.exists()
    assert storage.files("parts/00003") == ["parts/00003/part.json", "parts/00003/rows/a"]
    assert (storage.local("parts/00003") / "rows" / "a").read_bytes() == b"rows"


def test_of_two_writers_of_a_part_the_first_is_kept(storage: Storage) -> None:
    first, second = staged(storage, 0, b"first"), staged(storage, 1, b"other")
    storage.commit(0, first)
    storage.commit(1, second)
    again = staged(storage, 0, b"again")
    storage.commit(0, again)
    assert storage.read("parts/00000/rows/a") == b"first"
    assert storage.list_parts() == [0, 1]
    assert not again.exists()


def test_a_part_without_its_record_is_written_anew(storage: Storage) -> None:
    storage.commit(0, staged(storage, 0, b"first"))
    storage.remove("parts/00000/part.json")
    assert storage.list_parts() == []
    storage.commit(0, staged(storage, 0, b"again"))
    assert storage.read("parts/00000/rows/a") == b"again"


def test_a_folder_is_removed_with_all_that_is_in_it(storage: Storage) -> None:
    for part in (0, 1):
        storage.commit(part, staged(storage, part, b"rows"))
    storage.remove("parts/00000")
    storage.remove("parts/00002")
    storage.remove("parts/00001/rows/a")
    assert storage.files("parts") == ["parts/00001/part.json"]


def test_a_storage_below_another_has_its_files(storage: Storage, place: Place) -> None:
    below = storage.within("taps/final")
    below.commit(2, staged(below, 2, b"rows"))
    below.put("tap.json", b"plan")
    assert storage.names("taps") == ["final"]
    assert storage.read("taps/final/tap.json") == b"plan"
    assert (below.list_parts(), storage.list_parts()) == ([2], [])
    assert str(below) == f"{place}/taps/final"
    assert below.address == f"{storage.address}/taps/final"


def test_nothing_outside_is_read(storage: Storage) -> None:
    storage.put("a", b"")
    for ask in (storage.read, storage.size, storage.local, storage.within):
        with pytest.raises(CacheDamaged, match="leads outside the cache"):
            ask("../secret")


def test_a_scheme_that_nobody_has_is_refused() -> None:
    with pytest.raises(BadInput, match=r"no storage has the scheme 'men'. Did you mean 'mem'\?"):
        logitstore.open("men://cache")


def test_a_storage_that_was_written_for_an_earlier_version_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind = type(open_storage("mem://any"))
    assert not hasattr(kind, "prefetch")
    monkeypatch.delattr(kind, "holds")
    monkeypatch.delattr(kind, "swap")
    told = (
        r"mem://old/cache: its storage, of the package logitstore-memory, has no holds, swap.*Install a newer version"
    )
    with pytest.raises(BadInput, match=told):
        logitstore.open("mem://old/cache")


def test_settings_keep_the_address_of_a_cache_and_refuse_it_for_a_file() -> None:
    home = Path("~").expanduser()
    assert VerifySettings(cache="mem://~/a").cache == "mem://~/a"
    assert VerifySettings(cache="~/a").cache == VerifySettings(cache=Path("~/a")).cache == home / "a"
    again = DumpSettings.model_validate_json(DumpSettings(teacher="t", data="d", out="mem://a").model_dump_json())
    assert again.out == "mem://a"
    for place in (
        "mem://b",
        "s3://b/c",
        Path("s3://b/c"),
        "S3://b/c",
        "s3:/b/c",
    ):  # the command line makes paths of texts
        with pytest.raises(ValueError, match="only a cache can lie in another storage"):
            SelectSettings(cache="mem://a", out=place)
    for place in ("S3://b/c", "s3:/b/c", Path("s3://b/c")):
        with pytest.raises(ValueError, match=r"is no address of a storage\. Write one in small letters and with two"):
            DumpSettings(teacher="t", data="d", out=place)
    assert SelectSettings(cache="a", out=Path("/tmp/s3:/b")).out == Path("/tmp/s3:/b")


def test_a_cache_in_another_storage_is_the_same_cache(
    teacher: Path, texts: Path, small_student: Path, tmp_path: Path
) -> None:
    small: dict[str, Any] = {"limit": 12, "samples_per_part": 8, "hidden": "final"}
    place = f"mem://{secrets.token_hex(8)}"
    expected = tree(dump(plan_for(teacher, texts, tmp_path / "cache", **small)).path)
    plan = plan_for(teacher, texts, place, **small)  # type: ignore[arg-type]  # the helper is for paths
    cache = dump(plan)
    assert cache.path == place
    assert cache.complete
    assert {name: cache.storage.read(name) for name in cache.storage.files("")} == expected

    for name in ("parts/00001/part.json", "taps/final/parts/00001/part.json"):
        cache.storage.put(name, b"broken")
    problems = verify(place)
    assert {problem.file for problem in problems} == {"parts/00001/part.json", "taps/final/parts/00001/part.json"}
    assert repair(place, problems) == ["parts/00001", "taps/final/parts/00001"]
    dump(plan)
    assert {name: cache.storage.read(name) for name in cache.storage.files("")} == expected
    assert verify(place) == []

    losses = []
    for which in (place, tmp_path / "cache"):
        torch.manual_seed(0)
        out = tmp_path / f"student-{len(losses)}"
        train(TrainSettings(cache=which, student=str(small_student), out=out, max_steps=1, device="cpu"))
        losses.append((out / "model.safetensors").read_bytes())
    assert losses[0] == losses[1]
