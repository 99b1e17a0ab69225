"""The folder of the node: one process brings a part, what is mapped stays, and the bound holds, whatever dies in between."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from logitstore.errors import StorageError
from logitstore.store.maps import map_file
from logitstore.store.remote import node, uses
from logitstore.store.remote.node import NodeFolder, node_folder

SIZE = 1000

CHILD = """
import sys, time
from pathlib import Path
from logitstore.core.memo import Memo
from logitstore.store.maps import MAPS, map_file
from logitstore.store.remote.node import NodeFolder, node_folder
root, most, unit, does = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
folder = NodeFolder(root, most)
def bring(staged, make_room):
    make_room(1000)
    staged.mkdir()
    if does == "die":
        (staged / "rows").write_bytes(bytes(500))
        print("half", flush=True)
        time.sleep(60)
    with open(root.parent / "brought", "a") as file:
        file.write(unit + "\\n")
    time.sleep(0.2)
    (staged / "rows").write_bytes(bytes(1000))
path = folder.get(unit, bring)
if does == "keep":
    kept = Memo(MAPS)
    kept.get(unit, lambda: map_file(path / "rows", 1000))
else:
    held = map_file(path / "rows", 1000)
print("held", flush=True)
sys.stdin.read()
"""

Child = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    """Starts a process that gets a unit and keeps it mapped until its input ends."""
    children: list[subprocess.Popen[str]] = []

    def start(unit: str, does: str = "hold", most: int = 10 * SIZE) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, str(tmp_path / "node"), str(most), unit, does]
        children.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield start
    for each in children:
        each.kill()
        each.communicate()


def says(process: subprocess.Popen[str], word: str) -> None:
    stdout: IO[str] | None = process.stdout
    assert stdout is not None
    assert stdout.readline().strip() == word


def bring(staged: Path, make_room: Callable[[int], None]) -> None:
    make_room(SIZE)
    staged.mkdir()
    (staged / "rows").write_bytes(bytes(SIZE))


def on_disk(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("rows"))


def test_what_was_used_longest_ago_goes_and_the_bound_holds(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "node", 4 * SIZE)
    for number in range(20):
        folder.get(f"cache/{number:05d}", bring)
        assert on_disk(folder.root) <= 4 * SIZE
        assert folder.used() == on_disk(folder.root)
    assert folder.has("cache/00019")
    assert not folder.has("cache/00000")


def test_what_another_process_has_mapped_stays_until_it_is_killed(tmp_path: Path, child: Child) -> None:
    other = child("cache/held", most=4 * SIZE)
    says(other, "held")
    folder = NodeFolder(tmp_path / "node", 4 * SIZE)
    for number in range(12):
        folder.get(f"cache/{number:05d}", bring)
        assert folder.has("cache/held")
    other.kill()
    other.wait()
    for number in range(12, 24):
        folder.get(f"cache/{number:05d}", bring)
    assert not folder.has("cache/held")


def test_what_this_process_has_mapped_stays_and_goes_when_nobody_has_it(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "node", 4 * SIZE)
    held = map_file(folder.get("cache/held", bring) / "rows", SIZE)
    for number in range(12):
        folder.get(f"cache/{number:05d}", bring)
    assert folder.has("cache/held")
    del held
    for number in range(12, 24):
        folder.get(f"cache/{number:05d}", bring)
    assert not folder.has("cache/held")


def test_what_this_process_has_in_hand_is_not_waited_for_and_the_advised_bound_is_the_least(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "node", SIZE - 1)
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"1,000 bytes does not fit beside the 0 .*Give at least 1,000;"):
        folder.get("cache/a", bring)
    folder.most = 3 * SIZE - 1
    held = [map_file(folder.get(f"cache/{name}", bring) / "rows", SIZE) for name in "ab"]
    with pytest.raises(StorageError, match=r"beside the 2,000 that this process has in use\. Give at least 3,000;"):
        folder.get("cache/c", bring)
    assert on_disk(folder.root) == 2 * SIZE == folder.used()
    assert time.monotonic() - began < uses.OWN_SECONDS
    folder.most = 3 * SIZE
    held.append(map_file(folder.get("cache/c", bring) / "rows", SIZE))
    held.pop(0)
    folder.get("cache/d", bring)


def test_another_thread_of_this_process_is_waited_for_as_long_as_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "OWN_SECONDS", 1.0)
    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    is_asked = threading.Event()

    def read() -> None:
        held = [map_file(folder.get(f"cache/{name}", bring) / "rows", SIZE) for name in "ab"]
        is_asked.set()
        time.sleep(0.3)
        held.pop()
        is_done.wait(60)

    is_done = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert is_asked.wait(60)
        kept = map_file(folder.get("cache/c", bring) / "rows", SIZE)
        with pytest.raises(StorageError, match="beside the 2,000"):
            folder.get("cache/d", bring)
        is_done.set()
        reading.result()
    assert len(kept) == SIZE


def test_a_thread_that_asks_for_nothing_more_does_not_keep_its_last_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "LAST_SECONDS", 0.2)
    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    folder.get("cache/large", bring)
    began = time.monotonic()

    def ask() -> None:
        held = [map_file(folder.get(f"cache/{name}", bring) / "rows", SIZE) for name in "ab"]
        assert len(held) == 2

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask).result()
    assert not folder.has("cache/large")
    assert time.monotonic() - began < uses.PATIENCE_SECONDS


def test_a_process_that_waits_for_something_else_lets_go_of_what_it_keeps_for_later(
    tmp_path: Path, child: Child, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uses, "PATIENCE_SECONDS", 30)
    others = [child(f"cache/{name}", "keep", most=3 * SIZE) for name in "ab"]
    reader = child("cache/read", most=3 * SIZE)
    for each in (*others, reader):
        says(each, "held")
    folder = NodeFolder(tmp_path / "node", 3 * SIZE)
    began = time.monotonic()
    folder.get("cache/large", bring)
    # what has been mapped is not kept for its five seconds
    assert time.monotonic() - began < node.LAST_SECONDS
    for number in range(6):
        folder.get(f"cache/{number:05d}", bring)
    assert folder.has("cache/read")
    assert folder.used() == on_disk(folder.root) <= 3 * SIZE
    assert not folder._wish.is_of_another()
    monkeypatch.setattr(uses, "PATIENCE_SECONDS", 3 * node.TICK_SECONDS)
    held = [map_file(folder.get(f"cache/{name}", bring) / "rows", SIZE) for name in "cd"]
    with pytest.raises(StorageError, match="all of it is in use"):
        folder.get("cache/e", bring)
    assert len(held) == 2
    assert folder.has("cache/read")


def test_a_wish_for_room_is_seen_by_other_processes_and_goes_with_whoever_has_it(tmp_path: Path, child: Child) -> None:
    other = child("cache/a", most=2 * SIZE)
    says(other, "held")
    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    held = map_file(folder.get("cache/b", bring) / "rows", SIZE)
    assert not folder._wish.is_of_another()
    waiting = child("cache/c", most=2 * SIZE)
    deadline = time.monotonic() + 20
    while not folder._wish.is_of_another():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    waiting.kill()
    waiting.wait()
    assert not folder._wish.is_of_another()
    assert len(held) == SIZE


def test_one_folder_under_two_names_is_one_folder(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    folder = node_folder(tmp_path / "link" / "node", 2 * SIZE)
    assert node_folder(tmp_path / "real" / "node", 3 * SIZE) is folder
    assert folder.most == 3 * SIZE
    held = map_file(folder.get("cache/held", bring) / "rows", SIZE)
    for number in range(6):
        folder.get(f"cache/{number:05d}", bring)
    assert folder.has("cache/held")
    assert len(held) == SIZE


def test_a_process_that_asks_for_nothing_more_leaves_its_last_unit_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "LAST_SECONDS", 0.2)
    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    folder.get("cache/large", bring)
    deadline = time.monotonic() + 20
    while folder._held:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    folder.get("cache/large", bring)
    assert folder._held


def test_many_processes_bring_a_unit_once(tmp_path: Path, child: Child) -> None:
    children = [child("cache/one") for _ in range(4)]
    for each in children:
        says(each, "held")
    assert (tmp_path / "brought").read_text() == "cache/one\n"


def test_many_threads_bring_a_unit_once_and_another_tries_where_one_failed(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "node", None)
    brought: list[str] = []

    def slow(staged: Path, make_room: Callable[[int], None]) -> None:
        brought.append("")
        time.sleep(0.05)
        if len(brought) == 1:
            raise StorageError("the first one fails")
        bring(staged, make_room)

    failed: list[StorageError] = []

    def get() -> None:
        try:
            folder.get("cache/one", slow)
        except StorageError as error:
            failed.append(error)

    threads = [threading.Thread(target=get) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(brought) == 2
    assert len(failed) == 1
    assert folder.used() == SIZE


def test_what_a_killed_process_had_begun_is_swept_and_takes_no_room(tmp_path: Path, child: Child) -> None:
    other = child("cache/half", "die", most=4 * SIZE)
    says(other, "half")
    folder = NodeFolder(tmp_path / "node", 4 * SIZE)
    assert len(list(folder.root.glob("cache/*.partial-*"))) == 1
    assert folder.used() == SIZE
    other.kill()
    other.wait()
    folder.get("cache/half", bring)
    for number in range(4):
        folder.get(f"cache/{number:05d}", bring)
    assert list(folder.root.glob("cache/*.partial-*")) == []
    assert folder.used() == on_disk(folder.root) <= 4 * SIZE


def test_folders_do_not_count(tmp_path: Path) -> None:
    def in_folders(staged: Path, make_room: Callable[[int], None]) -> None:
        make_room(SIZE)
        (staged / "a" / "b").mkdir(parents=True)
        (staged / "a" / "b" / "rows").write_bytes(bytes(SIZE))

    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    for number in range(4):
        folder.get(f"cache/{number:05d}", in_folders)
        assert folder.used() == on_disk(folder.root) <= 2 * SIZE


def test_what_a_killed_process_kept_free_is_not_counted_by_the_next_one(tmp_path: Path, child: Child) -> None:
    root = tmp_path / "node"
    dying = child("cache/00001", "die")
    says(dying, "half")
    dying.kill()
    dying.wait()
    assert NodeFolder(root, 10 * SIZE).used() == on_disk(root) == 0


def test_parts_that_are_being_written_are_never_evicted(tmp_path: Path) -> None:
    folder = NodeFolder(tmp_path / "node", 2 * SIZE)
    staged = folder.root / ".staging" / "0123" / "00000.partial-0123abcd"
    staged.mkdir(parents=True)
    (staged / "rows").write_bytes(bytes(SIZE))
    for number in range(6):
        folder.get(f"cache/{number:05d}", bring)
    folder.empty()
    assert (staged / "rows").exists()
    assert folder.used() == 0 or folder.has("cache/00005")
