"""Caches in an object store: whatever dies, refuses or gets lost on the way, what comes of it is as without."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitstore.dump.dump import dump
from logitstore.errors import CacheDamaged, NotACache, StorageError
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.store.remote.brought import RECORD_BYTES
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.objects import Objects
from tests.parts.attacks import Attacks
from tests.parts.bucket import BUCKET, served, variables
from tests.parts.commands import Refused, flags_of, logitstore_command
from tests.parts.marks import rarely
from tests.parts.proxy import Proxy, between
from tests.parts.tasks import Start, Task, adding
from tests.parts.vision import Told
from tests.parts.warm import WarmProcess

pytestmark = pytest.mark.attack

FEW, MANY = 5, 14
"""Texts of a dump, and of one that is killed often."""

OTHERS = ("images", "classes", "masked", "ranking", "vectors")
"""Tasks beside texts, which are tried in `make attack` alone."""

OF_TEXTS = pytest.mark.parametrize("task", ["text"], indirect=True)
OF_EVERY_TASK = pytest.mark.parametrize("task", ["text", *map(rarely, OTHERS)], indirect=True)
MOMENTS = ("upload", "lose")
"""A process dies while it sends an object, or when the store has it and has not answered."""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with served() as address:
        yield address


@pytest.fixture
def proxy(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Stands before the bucket, in this process and in those that it starts."""
    with between(server) as made:
        for name, value in variables(made.address).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("LOGITSTORE_CACHE", str(tmp_path / "node"))
        monkeypatch.setenv("LOGITSTORE_RETRY_SECONDS", "2")
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Callable[[str], str]:
    """Gives addresses of caches that are not there yet."""
    return lambda name: f"s3://{BUCKET}/{tmp_path.name}/{name}"


@pytest.fixture(scope="module")
def plan(task: Task) -> Callable[..., DumpSettings]:
    """A dump into few parts, of texts into parts of one sample."""
    changes = {"samples_per_part": 1, "limit": FEW, "fidelity_rows": 0} if task.name == "text" else task.small
    return lambda out, **more: task.plan(out, **changes | more)


@pytest.fixture(scope="module")
def whole(
    server: str, task: Task, plan: Callable[..., DumpSettings], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, bytes]]:
    """Gives the objects of an undisturbed dump, with changes."""

    @cache
    def made(**changes: int) -> dict[str, bytes]:
        with pytest.MonkeyPatch.context() as environment:
            for name, value in variables(server).items():
                environment.setenv(name, value)
            environment.setenv("LOGITSTORE_CACHE", str(tmp_path_factory.mktemp("whole") / "node"))
            address = f"s3://{BUCKET}/whole-{task.name}-{len(changes)}"
            dump(plan(address, **changes))
            objects = Objects(address)
            return {found.name: objects.read(found.name) for found in objects.below("")}

    return made


@pytest.fixture
def placed(whole: Callable[..., dict[str, bytes]], proxy: Proxy, place: Callable[[str], str]) -> str:
    """The address of a whole cache of which nothing is on the node."""
    objects = Objects(place("cache"))
    for name, content in whole().items():
        objects.put(name, content)
    return objects.address


def counted(objects: dict[str, bytes]) -> dict[str, bytes]:
    """What is part of the cache."""
    return {name: content for name, content in objects.items() if not name.startswith("sidecars/")}


def contents(address: str) -> dict[str, bytes]:
    """The objects of a cache, but for what is no part of it."""
    objects = Objects(address)
    return counted({found.name: objects.read(found.name) for found in objects.below("")})


def values_of(cache: Cache) -> list[Any]:
    """All numbers of the rows and of the taps of a cache."""
    taps = [tap.part(number) for tap in map(cache.taps.__getitem__, cache.taps) for number in tap.part_numbers]
    found = [
        np.array(value) for fields in (*(each.answer.fields for each in cache), *taps) for value in fields.values()
    ]
    assert found
    return found


def forget() -> None:
    """Remove what lies on this node."""
    node_folder(Path(os.environ["LOGITSTORE_CACHE"]), None).empty()


def left_on_node() -> list[Path]:
    """What lies half on this node."""
    return list(Path(os.environ["LOGITSTORE_CACHE"]).rglob("*.partial-*"))


def kill(process: WarmProcess) -> Callable[[], None]:
    return lambda: os.kill(process.pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kills"), [("text", 2), rarely("text", 20), *(rarely(each, 2) for each in OTHERS)], indirect=["task"]
)
def test_a_dump_killed_within_uploads_ends_with_the_same_objects(
    start: Start,
    plan: Callable[..., DumpSettings],
    proxy: Proxy,
    place: Callable[[str], str],
    whole: Callable[..., dict[str, bytes]],
    attacks: Attacks,
    kills: int,
) -> None:
    chance = random.Random(kills)
    changes = {} if kills < 10 else {"limit": MANY}
    expected = counted(whole(**changes))
    assert len(expected) > 2 * kills
    settings = plan(place("killed"), **changes)
    for number in range(kills):
        process = start(settings)
        what = "/killed/(shared|cache)" if number == 0 else "/killed/parts/"
        proxy.add("PUT", what, MOMENTS[number % 2], skip=chance.randint(0, 1), then=kill(process))
        assert process.wait() == -signal.SIGKILL
        proxy.rules.clear()
        there = contents(settings.out)
        assert {name: expected[name] for name in there} == there
        if "cache.json" in there:
            assert verify(settings.out) == []
        else:
            with pytest.raises(NotACache):
                Cache(settings.out)
        attacks.survived("kills within uploads")
    last = start(settings)
    assert last.wait() == 0, last.communicate()[1]
    assert contents(settings.out) == expected
    assert verify(settings.out) == []
    assert left_on_node() == []
    attacks.survived("caches in stores resumed to the same bytes")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kills"), [("text", 2), rarely("text", 20), *(rarely(each, 2) for each in OTHERS)], indirect=["task"]
)
def test_a_reader_killed_within_a_download_leaves_nothing_that_is_used(
    placed: str, proxy: Proxy, attacks: Attacks, kills: int
) -> None:
    expected = values_of(Cache(placed))
    forget()
    for _ in range(kills):
        process = WarmProcess("verify", placed)
        proxy.add("GET", r"parts/\d+\.zip", "cut", then=kill(process))
        assert process.wait() == -signal.SIGKILL
        process.close()
        proxy.rules.clear()
        attacks.survived("kills within downloads")
    assert logitstore_command("inspect", placed, "--sample", "0").returncode == 0
    assert left_on_node() == []
    for one, other in zip(values_of(Cache(placed)), expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@OF_EVERY_TASK
def test_two_dumps_at_the_same_time_end_with_the_same_objects(
    start: Start,
    plan: Callable[..., DumpSettings],
    proxy: Proxy,
    place: Callable[[str], str],
    whole: Callable[..., dict[str, bytes]],
) -> None:
    processes = [start(plan(place("two")), LOGITSTORE_CACHE=f"{os.environ['LOGITSTORE_CACHE']}-{n}") for n in range(2)]
    for _ in range(4):
        proxy.add("PUT", "/two/", "lose", skip=3)
        proxy.add("PUT", "/two/", "twice", skip=3)
    for process in processes:
        assert process.wait() == 0, process.communicate()[1]
    assert contents(place("two")) == counted(whole())
    assert verify(place("two")) == []


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_that_add_views_at_the_same_time_both_end(
    start: Start, views_plan: Callable[..., DumpSettings], proxy: Proxy, place: Callable[[str], str]
) -> None:
    expected = contents(dump(views_plan(place("five"), 5)).storage.address)
    dump(views_plan(place("two"), 2))
    proxy.add("PUT", "/two/cache.json", "lose")
    processes = [start(adding(place("two"), "2-4")) for _ in range(2)]
    for process in processes:
        assert process.wait() == 0, process.communicate()[1]
    assert contents(place("two")) == expected
    assert verify(place("two")) == []


@OF_TEXTS
@pytest.mark.parametrize(
    ("code", "status", "said"),
    [("ExpiredToken", 400, "credentials have expired"), rarely("AccessDenied", 403, "refuses access")],
)
def test_what_a_store_refuses_in_the_middle_is_one_line_and_the_command_goes_on_afterwards(
    plan: Callable[..., DumpSettings],
    proxy: Proxy,
    place: Callable[[str], str],
    whole: Callable[..., dict[str, bytes]],
    stopped: Told,
    code: str,
    status: int,
    said: str,
) -> None:
    settings = plan(place("cache"))
    proxy.add("PUT", "/cache/parts/", "answer", (status, code), skip=2, times=1000)
    line = stopped("dump", *flags_of(settings))
    assert said in line
    assert str(settings.out) in line
    proxy.rules.clear()
    assert not Cache(settings.out).complete
    assert verify(settings.out) == []
    before = contents(place("cache"))
    proxy.add("GET", r"parts/\d+\.zip", "answer", (status, code), skip=1, times=1000)
    assert said in stopped("verify", settings.out, "--repair")
    proxy.rules.clear()
    assert contents(place("cache")) == before
    assert dump(settings).complete
    assert contents(settings.out) == counted(whole())
    assert left_on_node() == []


@OF_TEXTS
def test_no_bucket_and_no_server_are_one_line(
    plan: Callable[..., DumpSettings], proxy: Proxy, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "the bucket does not exist" in refused("dump", *flags_of(plan("s3://nothing-here/cache")))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "Check the connection" in refused("inspect", f"s3://{BUCKET}/cache")


@pytest.mark.slow
@OF_EVERY_TASK
def test_a_full_disk_of_the_node_is_one_line_and_the_command_goes_on_when_there_is_room(
    plan: Callable[..., DumpSettings],
    proxy: Proxy,
    place: Callable[[str], str],
    disk: Callable[[str], Path],
    stopped: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGITSTORE_CACHE", str(disk("size=16k") / "node"))
    settings = plan(place("cache"))
    assert "no space left" in stopped("dump", *flags_of(settings))
    disk("size=16m")
    cache = dump(settings)
    forget()
    disk("size=40k")
    assert "no space left" in stopped("verify", settings.out, "--no-resume")
    with pytest.raises(StorageError, match="no space left"):
        list(Cache(settings.out))
    assert left_on_node() == []
    disk("size=16m")
    assert len(list(Cache(settings.out))) == len(cache)
    assert verify(settings.out) == []


@OF_EVERY_TASK
def test_a_damaged_part_is_fetched_twice_and_named(placed: str, proxy: Proxy) -> None:
    objects = Objects(placed)
    name = "parts/00001.zip"
    whole = objects.read(name)
    middle = len(whole) // 2
    for spoilt in (whole[:-9], whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :], b""):
        objects.put(name, spoilt)
        before = proxy.count(r"GET .*/cache/parts/00001\.zip")
        with pytest.raises(CacheDamaged, match="00001"):
            Cache(placed).storage.local("parts/00001")
        assert proxy.count(r"GET .*/cache/parts/00001\.zip") == before + 2
        assert {problem.part for problem in verify(placed)} == {1}
    objects.put(name, whole)
    assert verify(placed) == []
    assert len(list(Cache(placed))) == len(Cache(placed))


def rows_of(address: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """The bytes of all rows of an epoch, batch by batch."""
    loader = Cache(address).loader(batch_size=2)
    return [value.numpy().view(np.uint8).copy() for batch in loader for value in batch.answer.values()]


@pytest.mark.slow
@pytest.mark.exhaustive
@OF_TEXTS
def test_an_epoch_through_a_folder_for_a_quarter_of_the_cache(
    proxy: Proxy, place: Callable[[str], str], whole: Callable[..., dict[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed = place("cache")
    for name, content in whole(limit=MANY).items():
        Objects(placed).put(name, content)
    sizes = [len(content) for name, content in contents(placed).items() if name.startswith("parts/")]
    expected = rows_of(placed)
    # what is still mapped of the other folder does not count
    monkeypatch.setenv("LOGITSTORE_CACHE", f"{os.environ['LOGITSTORE_CACHE']}-bounded")
    bound = sum(sizes) // 4
    monkeypatch.setenv("LOGITSTORE_CACHE_SIZE", str(bound))
    folder = Path(os.environ["LOGITSTORE_CACHE"])
    most, over = 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.wait(0.01):
            found = 0
            for where, _, names in os.walk(folder):
                for name in {*names} - {"room", ".locks"}:
                    with suppress(FileNotFoundError):
                        found += os.lstat(f"{where}/{name}").st_size
            most = max(most, found)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        found = rows_of(placed)
    finally:
        over.set()
        watcher.join()
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert 0 < most <= bound + max(sizes)


@OF_TEXTS
def test_processes_of_a_node_fetch_each_part_once(placed: str, proxy: Proxy) -> None:
    proxy.requests.clear()
    proxy.add("GET", r"parts/\d+\.zip", "slow", 0.2, times=1000)
    processes = [WarmProcess("inspect", placed, "--sample", "3") for _ in range(3)]
    for process in processes:
        assert process.wait() == 0
        process.close()
    # one brings the part, the two others ask whether it is still the same
    assert proxy.count(r"parts/\d+\.zip") == 3
    assert proxy.count(rf"parts/\d+\.zip bytes=0-{RECORD_BYTES - 1}$") == 2
