"""A folder on this node that holds parts of far caches, for all processes of the node, within a bound of bytes.

A unit is a folder of files that come and go together, such as a part. It is brought here by one process, while others that
want it wait; it is held as long as a file of it is mapped, by any process; and of those that nobody holds, the one used
longest ago goes first. A process that finds no room asks the others for it: then they let go of maps that nobody reads. All of
that is told by locks on single bytes of one file, which the system takes away from a process that dies.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from logitstore.errors import StorageError, storage_errors
from logitstore.store.maps import MAPS, watch_maps
from logitstore.store.remote.locks import COUNTING, WAIT_SECONDS, ByteLocks, Wish, place_of
from logitstore.store.remote.units import PARTIAL, ROOM, Total, bytes_of, room_of, sweep, units
from logitstore.store.remote.uses import Askers, Least, Patience, Use, call_again, told_of_no_room

LOCKS = ".locks"

_UNIT = "unit"
"""The name of a unit while it is brought."""

LAST_SECONDS = 5.0
"""How long the unit that a thread asked for last stays where there is no room for others: long enough to map its files."""

TICK_SECONDS = 0.5
"""How often a process that holds units looks whether another one waits for room."""

SLACK = 0.05
"""So much of the bound is freed at once, because to look for what was used longest ago costs a look at everything."""

Bring = Callable[[Path, Callable[[int], None]], None]
"""Makes a unit in a folder that is not there yet, after it has asked for room for so many bytes."""


class NodeFolder:
    """A folder of units. There is one object of it in a process: see `node_folder`."""

    def __init__(self, root: Path, most: int | None) -> None:
        """Make the folder.

        Args:
            root: where it lies.
            most: bytes that its units may take together; None for no bound.

        Raises:
            StorageError: it cannot be made.
        """
        self.root, self.most = root, most
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            self._file = os.open(root / LOCKS, os.O_RDWR | os.O_CREAT, 0o644)
        self._locks = ByteLocks(self._file)
        self._wish, self._count = Wish(self._locks), Total(root, self._file)
        self._lock = threading.RLock()
        self._bringing = weakref.WeakValueDictionary[str, Any]()
        self._held, self._gone = Counter[str](), deque[str]()
        self._process = os.getpid()
        self._lasts: dict[int, Use] = {}
        self._askers = Askers()
        self._is_watched = False
        watch_maps(str(root), self._watch)
        with self._locks.held(COUNTING):
            if sweep(root, self._locks, self._bringing):
                self._count.again()

    def has(self, unit: str) -> bool:
        """Say whether a unit is here."""
        return (self.root / unit).is_dir()

    def get(self, unit: str, bring: Bring, least: Least | None = None) -> Path:
        """Return the folder of a unit. It stays while it is mapped, for LAST_SECONDS, or until this thread asks for another.

        Args:
            unit: the name of the folder, relative to this one.
            bring: makes the unit where it is not here yet.
            least: tells the bytes with which the reading works, for advice where there is no room.

        Raises:
            StorageError: there is no room for it, or the disk refuses it.
        """
        folder = self.root / unit
        if unit != getattr(self._lasts.get(threading.get_ident()), "unit", unit):
            self.let_go_of_last()
        self._askers.add()
        with self._lock:
            self._let_go()
            if self._hold_if_here(unit):
                return folder
            # it lives as long as a thread brings the unit or waits for it
            mine = self._bringing.setdefault(unit, threading.Lock())
        with mine, self._locks.held(place_of(unit, "brought")):
            with self._lock:
                if self._hold_if_here(unit):
                    return folder
            staged = folder.with_name(f"{folder.name}{PARTIAL}{secrets.token_hex(4)}")
            try:
                with storage_errors(self.root, "give the same command again"):
                    staged.mkdir(parents=True)
                    bring(staged / _UNIT, partial(self._make_room, staged, least))
                    size = bytes_of(staged / _UNIT)
                    with self._lock, self._locks.held(COUNTING):
                        self._count.add(size)
                        (staged / _UNIT).rename(folder)
                        self._hold_if_here(unit)
            finally:
                with self._lock, self._locks.held(COUNTING):
                    try:
                        self._count.add(-room_of(staged))
                    finally:  # on a full disk not even the count can be written
                        shutil.rmtree(staged, ignore_errors=True)
        return folder

    def let_go_of_last(self) -> None:
        """Say that this thread no longer needs the unit that it asked for last, and has no other in hand."""
        self._askers.leave()
        with self._lock:
            self._lasts.pop(threading.get_ident(), None)

    def let_go_of_old(self) -> bool:
        """Let go of units that threads asked for last, long ago, and, as long as another process waits for room, of one map
        after the other that is only kept for later. Say whether units are held."""
        while True:
            is_wished = self._wish.is_of_another()
            with self._lock:
                for thread in [thread for thread, use in self._lasts.items() if use.may_end(is_wished)]:
                    del self._lasts[thread]
                self._let_go()
                self._is_watched = bool(self._held)
            # what a reader has in hand stays mapped, and held
            if not (is_wished and self._is_watched and MAPS.shed(keep=0)):
                return self._is_watched
            time.sleep(WAIT_SECONDS)

    def drop(self, unit: str) -> None:
        """Remove a unit, such as one that turned out to be damaged or old."""
        with self._lock, self._locks.held(COUNTING):
            self._remove(unit)

    def drop_all(self, cache: str) -> None:
        """Remove the units of one cache, those that are held too."""
        with self._lock, self._locks.held(COUNTING):
            for unit in [unit for unit, _ in units(self.root) if unit.startswith(f"{cache}/")]:
                self._remove(unit)

    def empty(self) -> None:
        """Remove every unit that nobody holds."""
        with self._lock, self._locks.held(COUNTING):
            self._let_go()
            self._evict_down_to(0)

    def used(self) -> int:
        """Return the bytes of all units."""
        with self._lock, self._locks.held(COUNTING):
            return self._count.get()

    # what is held

    def _hold_if_here(self, unit: str) -> bool:
        """Hold a unit for this thread, if it is here. The lock is taken before the folder is looked at."""
        self._hold(unit)
        try:
            os.utime(self.root / unit)
        except FileNotFoundError:
            self._release(unit)
            return False
        self._lasts[threading.get_ident()] = Use(unit, LAST_SECONDS, self._leave)
        return True

    def _hold(self, unit: str) -> None:
        if not self._is_watched:
            self._is_watched = True
            call_again(TICK_SECONDS, weakref.WeakMethod(self.let_go_of_old))
        self._held[unit] += 1
        if self._held[unit] == 1:
            while not self._locks.take(place_of(unit, "used"), shared=True):
                time.sleep(WAIT_SECONDS)

    def _release(self, unit: str) -> None:
        self._held[unit] -= 1
        if not self._held[unit]:
            del self._held[unit]
            self._locks.leave(place_of(unit, "used"))

    def _watch(self, path: str, buffer: Any) -> None:
        """Hold the unit of a file as long as the buffer lives that maps it."""
        unit = "/".join(path[len(str(self.root)) + 1 :].split("/")[:2])
        with self._lock:
            self._hold(unit)
            if (last := self._lasts.get(threading.get_ident())) is not None:
                last.note_map(unit)
        weakref.finalize(buffer, self._leave, unit).atexit = False

    def _leave(self, unit: str) -> None:
        """Note that a map is gone. The garbage collector may come while this very thread has the lock."""
        if os.getpid() != self._process:
            return  # a child's own locks are those of another object
        self._gone.append(unit)
        if self._lock.acquire(blocking=False):
            try:
                self._let_go()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        while self._gone:
            with contextlib.suppress(IndexError):
                self._release(self._gone.popleft())

    # what there is room for

    def _make_room(self, staged: Path, least: Least | None, size: int) -> None:
        """Keep so many bytes free for a unit that is being brought; no other process counts with them."""
        if self.most is None:
            return
        patience = Patience(self.most, self._askers)
        with self._wish.told() as tell:
            while not self._has_made_room(staged, size):
                # what other processes, and this one, have open and do not need at the moment
                tell()
                if not MAPS.shed(keep=0) and patience.is_over(sum((held := self._in_hand()).values()), size):
                    raise StorageError(f"{self.root}: {told_of_no_room(self.most, held, size, least)}")
                time.sleep(0 if self._gone else WAIT_SECONDS)

    def _in_hand(self) -> dict[str, int]:
        """Return the units that this process holds, with their bytes, but for those that other threads soon let go of."""
        with self._lock:
            self._let_go()
            soon = Counter(use.unit for use in self._lasts.values())
            return {unit: bytes_of(self.root / unit) for unit, count in self._held.items() if count > soon[unit]}

    def _has_made_room(self, staged: Path, size: int) -> bool:
        """Keep so many bytes free if there is room, or what nobody holds makes some."""
        with self._lock, self._locks.held(COUNTING):
            self._let_go()
            more = size - room_of(staged)
            if self._count.get() + more > (self.most or 0) and not self._evict(more):
                return False
            with (staged / ROOM).open("wb") as file:
                file.truncate(size)
            self._count.add(more)
            return True

    def _evict(self, size: int) -> bool:
        """Remove what was used longest ago and nobody holds, until there is room, and a little more."""
        most = self.most or 0
        return self._evict_down_to(max(int(most * (1 - SLACK)) - size, 0)) + size <= most

    def _evict_down_to(self, wanted: int) -> int:
        """Remove what was used longest ago and nobody holds, until the rest has so many bytes; return how many it has."""
        sweep(self.root, self._locks, self._bringing)
        found = sorted((path.stat().st_mtime_ns, unit, path) for unit, path in units(self.root))
        sizes = {unit: bytes_of(path) for _, unit, path in found}
        total = sum(sizes.values()) + self._count.kept_free()
        for _, unit, _ in found:
            if total <= wanted:
                break
            if not self._held[unit] and self._locks.take(place_of(unit, "used"), shared=False):
                try:
                    shutil.rmtree(self._aside(unit), ignore_errors=True)
                finally:
                    self._locks.leave(place_of(unit, "used"))
                total -= sizes[unit]
        self._count.set(total)
        return total

    def _remove(self, unit: str) -> None:
        if self.has(unit):
            size = bytes_of(self.root / unit)
            shutil.rmtree(self._aside(unit), ignore_errors=True)
            self._count.add(-size)

    def _aside(self, unit: str) -> Path:
        """Rename a unit, so that nobody finds it half removed."""
        aside = self.root / f"{unit}{PARTIAL}{secrets.token_hex(4)}"
        (self.root / unit).rename(aside)
        return aside


_FOLDERS: dict[Path, NodeFolder] = {}
_OPENING = threading.Lock()


def _forget_folders() -> None:
    global _OPENING
    _OPENING = threading.Lock()
    _FOLDERS.clear()


if hasattr(os, "register_at_fork"):
    # locks stay with the parent, so a child opens the folder anew
    os.register_at_fork(after_in_child=_forget_folders)


def node_folder(root: Path, most: int | None) -> NodeFolder:
    """Return the folder at a place, with a bound. The one that is open already gets the bound, under whatever name."""
    root = Path(os.path.realpath(root))
    with _OPENING:
        if root not in _FOLDERS:
            _FOLDERS[root] = NodeFolder(root, most)
        _FOLDERS[root].most = most
        return _FOLDERS[root]
