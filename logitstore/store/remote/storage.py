"""A cache in an object store: whole parts as one object each, written with one request that is their commit, and read through a
folder on this node.

Nothing in the store is ever half there. A part is one object, which is written only if there is none; what a writer that died
had begun never becomes visible. Readers find parts, records and shared files below the folder of the node as on a local disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import xxhash

from logitstore.core.background import Workers
from logitstore.core.place import below, matching
from logitstore.core.registry import resolve
from logitstore.errors import BadInput, CacheDamaged, LogitstoreError
from logitstore.format.manifest import MANIFEST_NAME
from logitstore.format.part_record import RECORD_NAME
from logitstore.format.sealed import LARGEST
from logitstore.format.tap import TAP_NAME, TAPS
from logitstore.store.layout import PARTS, SAMPLES_FILE, SIDECARS, part_name, record_name
from logitstore.store.local_disk import held_parts, sweep_left
from logitstore.store.remote.brought import Brought
from logitstore.store.remote.bundle import pack
from logitstore.store.remote.names import SUFFIX, checked, object_of, part_of
from logitstore.store.remote.objects import Objects
from logitstore.store.remote.settings import one_writer
from logitstore.store.staged import leases
from logitstore.store.storage import FULL

SMALL = LARGEST + 1
"""An object of fewer bytes is read at once when its size is asked for."""

_ON_HUB = "logitstore.store.remote.hub:HubObjects"

AHEAD = 2
"""Threads that bring parts before they are asked for."""


class ObjectStorage:
    """A cache, or a tap of one, below an address such as `s3://bucket/name`."""

    def __init__(self, address: str, home: ObjectStorage | None = None, salt: str = "") -> None:
        """Take the address; nothing is asked.

        Args:
            address: the place.
            home: the storage of the cache, for that of a tap.
            salt: storages with another one share nothing that is brought here.

        Raises:
            BadInput: see `Objects`.
        """
        self._objects: Objects = (resolve(_ON_HUB) if address.startswith("hf://") else Objects)(address)
        self._home, self._salt = home, salt
        self._brought = Brought(self._objects, MANIFEST_NAME if home is None else TAP_NAME, salt)
        self._taps: list[ObjectStorage] = []
        self._staged: dict[Path, int] = {}
        self._known: dict[str, bytes] = {}

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        return self._objects.address

    def within(self, name: str) -> ObjectStorage:
        tap = ObjectStorage(f"{self.address}/{checked(name)}", self, self._salt)
        if self._salt:
            self._taps.append(tap)
        return tap

    # reading

    def read(self, name: str) -> bytes:
        part = part_of(name)
        if part is None:
            known = self._known.pop(name, None)
            content = self._objects.read(checked(name)) if known is None else known
            self._brought.learn(name, content)
            return content
        if name == record_name(part) and not self._brought.has(part):
            return self._brought.head(part, RECORD_NAME).read_bytes()
        return self._brought.part(part, _inside(part, name)).read_bytes()

    def size(self, name: str) -> int | None:
        part = part_of(name)
        if part is None:
            return self._size_ofobject_of(checked(name))
        if name == record_name(part) and not self._brought.has(part):
            path = self._brought.head(part, RECORD_NAME)
        else:
            path = self._brought.part(part, _inside(part, name))
        return path.stat().st_size if path.is_file() else None

    def holds(self, part: int) -> bool:
        return self._objects.head(object_of(part)) is not None

    def _size_ofobject_of(self, name: str) -> int | None:
        """Return the bytes of an object. A small one is read at once, because whoever asks will read it."""
        try:
            content, size = self._objects.begin(name, SMALL)
        except FileNotFoundError:
            return None
        if size == len(content):
            self._known = {name: content}
        return size

    def names(self, folder: str) -> list[str]:
        return [name.removesuffix(SUFFIX) for name in self._objects.right_below(checked(folder) if folder else "")]

    def files(self, folder: str) -> list[str]:
        part = part_of(folder)
        if part is None:
            return [found.name for found in self._objects.below(f"{checked(folder)}/")]
        try:
            root = self.local(folder)
        except CacheDamaged:
            return []  # an object that cannot be taken apart has no files
        return sorted(f"{folder}/{path.relative_to(root).as_posix()}" for path in below(root) if path.is_file())

    def list_parts(self) -> list[int]:
        return sorted(self.commit_times())

    def commit_times(self) -> dict[int, float]:
        found = {each.name: each.modified for each in self._objects.below(f"{PARTS}/")}
        times = {part_of(name.removesuffix(SUFFIX)): moment for name, moment in found.items() if name.count("/") == 1}
        return {part: moment for part, moment in times.items() if part is not None and object_of(part) in found}

    def stamp(self, folder: str) -> str | None:
        return FULL if folder == PARTS else None

    def local(self, name: str) -> Path:
        part = part_of(name)
        if part is None:
            return self._brought.aside(checked(name), self.read)
        if name == f"{part_name(part)}/{SAMPLES_FILE}" and not self._brought.has(part):
            return self._brought.head(part, SAMPLES_FILE)
        return self._brought.part(part, _inside(part, name))

    @contextmanager
    def anew(self) -> Iterator[ObjectStorage]:
        fresh = ObjectStorage(self.address, self._home, salt=secrets.token_hex(8))
        try:
            yield fresh
        finally:
            for storage in (fresh, *fresh._taps):
                storage._brought.forget_all()

    def prefetch(self, names: Sequence[str]) -> None:
        for part in filter(None.__ne__, map(part_of, names)):
            self._ahead.submit(self._bring_ahead, part)

    @cached_property
    def _ahead(self) -> Workers:
        return Workers(AHEAD)

    def _bring_ahead(self, part: int) -> None:
        # what is wrong with it is said to whoever needs it
        with suppress(LogitstoreError, OSError):
            self._brought.part(part)
            self._brought.node.let_go_of_last()

    def forget(self, part: int) -> None:
        self._brought.forget_part(part)

    def digest(self, part: int) -> bytes:
        return self._brought.digest(part)

    def bring_to(self, part: int, folder: Path) -> None:
        self._brought.bring_to(part, folder)

    # writing

    @contextmanager
    def claim(self) -> Iterator[list[str]]:
        names = self.names("")
        # the probe is made twice, as another process may sweep one away
        if MANIFEST_NAME not in names and not one_writer() and not (self._keeps_the_first() or self._keeps_the_first()):
            raise BadInput(
                f"{self.address}: this store replaces an object where it was asked not to, so two writers could destroy "
                "each other's parts. Choose another, or set LOGITSTORE_ONE_WRITER=1 and let one command write at a time."
            )
        yield names

    def _keeps_the_first(self) -> bool:
        """Say whether the store refuses to replace an object where it is asked not to."""
        probe = f".probe-{secrets.token_hex(4)}"
        try:
            return self._objects.put_first(probe, b"1") and not self._objects.put_first(probe, b"2")
        finally:
            self._objects.delete([probe])

    def put(self, name: str, content: bytes) -> None:
        self._objects.put(checked(name), content)
        self._forget(name)

    def put_first(self, name: str, content: bytes) -> bool:
        self._known = {}
        if one_writer():
            if self._objects.head(checked(name)) is not None:
                return False
            self._objects.put(checked(name), content)
            return True
        return self._objects.put_first(checked(name), content)

    def swap(self, name: str, known: bytes, content: bytes) -> bool:
        self._forget(name)
        there, tag = self._objects.read_tagged(checked(name))
        if there != known:
            return False
        if one_writer():
            self._objects.put(checked(name), content)
            return True
        return self._objects.swap(checked(name), tag, content)

    @contextmanager
    def alone(self) -> Iterator[None]:
        yield

    def stage(self, part: int) -> Path:
        folder = self._staging
        while True:
            staged = folder / f"{part:05d}.partial-{secrets.token_hex(4)}"
            staged.mkdir(parents=True)
            if (lease := leases.take(staged)) is not None:
                self._staged[staged] = lease
                return staged

    def being_written(self) -> list[int]:
        return held_parts(matching(self._staging, "*.partial-*"))

    def commit(self, part: int, staged: Path) -> None:
        self.put_first(object_of(part), pack(staged, f"{self.address}: part {part:05d}"))
        self._brought.forget_part(part)
        self.drop(staged)

    def drop(self, staged: Path) -> None:
        shutil.rmtree(staged, ignore_errors=True)
        if (lease := self._staged.pop(staged, None)) is not None:
            os.close(lease)

    def remove(self, name: str) -> None:
        tap, slash, rest = name.partition(f"/{PARTS}/")
        if slash and tap.startswith(f"{TAPS}/"):
            self.within(tap).remove(f"{PARTS}/{rest}")
            return
        part = part_of(name)
        if part is not None:
            self._drop_index()
            self._objects.delete([object_of(part)])
            self._brought.forget_part(part)
            return
        self._objects.delete([checked(name), *(found.name for found in self._objects.below(f"{checked(name)}/"))])
        self._forget(name)

    def sweep(self) -> None:
        sweep_left(matching(self._staging, "*.partial-*"))
        self._objects.delete([name for name in self._objects.right_below("") if name.startswith(".probe-")])

    def free_bytes(self) -> None:
        return None

    def _drop_index(self) -> None:
        """Remove the index that tells of the parts here, before one of them goes."""
        home = self._home or self
        name = "cache" if self._home is None else self.address.rpartition("/")[2]
        home._objects.delete([f"{SIDECARS}/index/{name}/index.json"])

    def _forget(self, name: str) -> None:
        """Let nobody here read what a file was before."""
        self._known = {}
        self._brought.forget(name)

    @property
    def _staging(self) -> Path:
        return self._brought.node.root / ".staging" / xxhash.xxh3_64_hexdigest(self.address.encode())


def _inside(part: int, name: str) -> str:
    """Return what a name leads to in a part; the empty text for the part itself."""
    return checked(name)[len(part_name(part)) :].lstrip("/")
