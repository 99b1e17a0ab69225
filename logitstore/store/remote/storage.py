"""A cache in an object store: whole parts as one object each, written with one request that is their commit, and read through a
folder on this node.

Nothing in the store is ever half there. A part is one object, which is written only if there is none; what a writer that died
had begun never becomes visible. Readers find parts, records and shared files below the folder of the node as on a local disk.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path

import xxhash

from logitstore.core.place import matching
from logitstore.core.registry import resolve
from logitstore.errors import BadInput, CacheDamaged, LogitstoreError, StorageError, way_out_of
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME
from logitstore.format.sealed import LARGEST, unseal_from
from logitstore.format.tap import TAP_NAME
from logitstore.store.layout import PARTS, SAMPLES_FILE, SIDECARS, part_name, part_numbers, record_name
from logitstore.store.local_disk import sweep_left
from logitstore.store.remote.bundle import member, pack, unpack
from logitstore.store.remote.node import NodeFolder, node_folder
from logitstore.store.remote.objects import LARGEST_OBJECT, PIECE_BYTES, Objects
from logitstore.store.remote.settings import local_cache, local_cache_size, one_writer
from logitstore.store.staged import leases
from logitstore.store.storage import FULL

SMALL = LARGEST + 1
"""An object of fewer bytes is read at once when its size is asked for."""

HEAD_BYTES = 256 << 10
"""So many first bytes of a part are fetched for its record; its samples often are among them."""

_ON_HUB = "logitstore.store.remote.hub:HubObjects"

RECORD_BYTES = 32 << 10
"""So many first bytes of a part are fetched for the seal of its record, which is rarely longer."""

SUFFIX = ".zip"


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
        self._taps: set[str] = set()
        self._damaged: dict[int, CacheDamaged] = {}
        self._staged: dict[Path, int] = {}
        self._known: dict[str, bytes] = {}

    def __str__(self) -> str:
        return self.address

    @property
    def address(self) -> str:
        return self._objects.address

    def within(self, name: str) -> ObjectStorage:
        self._taps.add(_inside(name))
        return ObjectStorage(f"{self.address}/{name}", self, self._salt)

    # reading

    def read(self, name: str) -> bytes:
        part = _part_of(name)
        if part is None:
            known = self._known.pop(name, None)
            content = self._objects.read(_inside(name)) if known is None else known
            if name == self._plan_name and "_key" not in self.__dict__:
                self._key = self._key_of(content)
            return content
        if name == record_name(part) and not self._node.has(self._unit(part)):
            return self._head(part, RECORD_NAME).read_bytes()
        return self._member(part, name).read_bytes()

    def size(self, name: str) -> int | None:
        part = _part_of(name)
        if part is None:
            return self._size_of_object(_inside(name))
        if name == record_name(part) and not self._node.has(self._unit(part)):
            path = self._head(part, RECORD_NAME)
        else:
            path = self._member(part, name)
        return path.stat().st_size if path.is_file() else None

    def holds(self, part: int) -> bool:
        return self._objects.head(_object(part)) is not None

    def _size_of_object(self, name: str) -> int | None:
        """Return the bytes of an object. A small one is read at once, because whoever asks will read it."""
        try:
            content, size = self._objects.begin(name, SMALL)
        except FileNotFoundError:
            return None
        if size == len(content):
            self._known = {name: content}
        return size

    def names(self, folder: str) -> list[str]:
        return [name.removesuffix(SUFFIX) for name in self._objects.right_below(_inside(folder) if folder else "")]

    def files(self, folder: str) -> list[str]:
        part = _part_of(folder)
        if part is None:
            return [found.name for found in self._objects.below(f"{_inside(folder)}/")]
        try:
            root = self.local(folder)
        except CacheDamaged:
            return []  # an object that cannot be taken apart has no files
        return sorted(f"{folder}/{path.relative_to(root).as_posix()}" for path in root.rglob("*") if path.is_file())

    def list_parts(self) -> list[int]:
        return sorted(self.commit_times())

    def commit_times(self) -> dict[int, float]:
        found = {each.name.removesuffix(SUFFIX): each for each in self._objects.below(f"{PARTS}/")}
        times = {_part_of(name): each.modified for name, each in found.items() if each.name == f"{name}{SUFFIX}"}
        return {part: time for part, time in times.items() if part is not None}

    def stamp(self, folder: str) -> str | None:
        return FULL if folder == PARTS else None

    def local(self, name: str) -> Path:
        part = _part_of(name)
        if part is None:
            return self._aside(_inside(name))
        if name == f"{part_name(part)}/{SAMPLES_FILE}" and not self._node.has(self._unit(part)):
            return self._head(part, SAMPLES_FILE)
        return self._member(part, name)

    @contextmanager
    def anew(self) -> Iterator[ObjectStorage]:
        fresh = ObjectStorage(self.address, self._home, salt=secrets.token_hex(8))
        try:
            yield fresh
        finally:
            self._node.drop_all(fresh._key)
            for name in fresh._taps:
                self._node.drop_all(fresh.within(name)._key)

    def prefetch(self, parts: Iterable[int]) -> None:
        for part in parts:
            self._member(part, part_name(part))

    def digest(self, part: int) -> bytes:
        name = _object(part)
        begun, _ = self._objects.begin(name, RECORD_BYTES)
        span = member(begun, RECORD_NAME)
        if span is None or span[1] - span[0] > LARGEST:
            raise CacheDamaged(f"{self}/{name}: it does not begin with {RECORD_NAME}. {way_out_of(self.address)}")
        if span[1] > len(begun):
            begun += self._objects.read_range(name, len(begun), span[1])
        return begun[span[1] - 36 : span[1] - 4]

    def bring_to(self, part: int, folder: Path) -> None:
        self._bring(part, folder, _as_it_comes)

    # writing

    @contextmanager
    def claim(self) -> Iterator[list[str]]:
        names = self.names("")
        if MANIFEST_NAME not in names and not one_writer():
            probe = f".probe-{secrets.token_hex(4)}"
            is_first = self._objects.put_first(probe, b"1") and not self._objects.put_first(probe, b"2")
            self._objects.delete([probe])
            if not is_first:
                raise BadInput(
                    f"{self.address}: this store replaces an object where it was asked not to, so two writers could destroy "
                    "each other's parts. Choose another, or set LOGITSTORE_ONE_WRITER=1 and let one command write at a time."
                )
        yield names

    def put(self, name: str, content: bytes) -> None:
        self._objects.put(_inside(name), content)
        self._forget(name)

    def put_first(self, name: str, content: bytes) -> bool:
        if one_writer():
            if self._objects.head(_inside(name)) is not None:
                return False
            self._objects.put(_inside(name), content)
            return True
        return self._objects.put_first(_inside(name), content)

    def swap(self, name: str, known: bytes, content: bytes) -> bool:
        there, tag = self._objects.read_tagged(_inside(name))
        if there != known:
            return False
        if one_writer():
            self._objects.put(_inside(name), content)
            return True
        return self._objects.swap(_inside(name), tag, content)

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

    def commit(self, part: int, staged: Path) -> None:
        content = pack(staged)
        if len(content) > LARGEST_OBJECT:
            raise StorageError(
                f"{self.address}: part {part:05d} has {len(content):,} bytes; a store takes {LARGEST_OBJECT:,} in one request. "
                "Begin the cache again with a smaller --part-bytes."
            )
        self.put_first(_object(part), content)
        self.drop(staged)

    def drop(self, staged: Path) -> None:
        shutil.rmtree(staged, ignore_errors=True)
        if (lease := self._staged.pop(staged, None)) is not None:
            os.close(lease)

    def remove(self, name: str) -> None:
        part = _part_of(name)
        if part is not None:
            self._drop_index()
            self._objects.delete([_object(part)])
            self._damaged.pop(part, None)
            if "_key" in self.__dict__:
                for unit in (self._unit(part), f"{self._unit(part)}.head"):
                    self._node.drop(unit)
            return
        self._objects.delete([_inside(name), *(found.name for found in self._objects.below(f"{_inside(name)}/"))])
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

    # the folder of the node

    @property
    def _node(self) -> NodeFolder:
        return node_folder(local_cache(), local_cache_size())

    @property
    def _staging(self) -> Path:
        return self._node.root / ".staging" / xxhash.xxh3_64_hexdigest(self.address.encode())

    @property
    def _plan_name(self) -> str:
        return MANIFEST_NAME if self._home is None else TAP_NAME

    @cached_property
    def _key(self) -> str:
        """What stands for this cache on the node: its address, and which plan lies there."""
        return self._key_of(self._objects.read(self._plan_name))

    def _key_of(self, content: bytes) -> str:
        plan = xxhash.xxh3_128_hexdigest(content)
        with suppress(LogitstoreError):
            if self._home is None:
                # more views change the file, but no part
                plan = unseal_from(Manifest, self.address, MANIFEST_NAME, partial(bytes, content)).identity
        return xxhash.xxh3_64_hexdigest(f"{self.address}\0{plan}\0{self._salt}".encode())

    def _unit(self, part: int) -> str:
        return f"{self._key}/{part:05d}"

    def _unit_of(self, name: str) -> str:
        return f"{self._key}/{xxhash.xxh3_64_hexdigest(name.encode())}.file"

    def _forget(self, name: str) -> None:
        """Let nobody here read what a file was before."""
        self._known = {}
        if "_key" in self.__dict__:
            self._node.drop(self._unit_of(name))

    def _member(self, part: int, name: str) -> Path:
        """Return the path of a part or of a file in it, after bringing the part here; a path to nothing if there is none."""
        inside = _inside(name)[len(part_name(part)) :].lstrip("/")
        if part in self._damaged:
            raise self._damaged[part]
        try:
            self._node.get(self._unit(part), partial(self._bring, part))
        except FileNotFoundError:
            pass  # there is none
        except CacheDamaged as error:
            self._damaged[part] = error
            raise
        return self._node.root / self._unit(part) / inside

    def _bring(self, part: int, folder: Path, make_room: Callable[[int], None]) -> None:
        """Fetch a part, and check it; once more if it arrives damaged."""
        name = _object(part)
        for is_last in (False, True):
            begun, size = self._objects.begin(name, PIECE_BYTES)
            if size > LARGEST_OBJECT:
                raise CacheDamaged(f"{self}/{name}: {size:,} bytes are more than any part has. Do not use this cache.")
            make_room(size)
            try:
                unpack(self._objects.rest(name, begun, size), folder, f"{self}/{name}")
                return
            except CacheDamaged as error:
                for path in matching(folder, "*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if is_last:
                    raise CacheDamaged(f"{error} It came so twice. {way_out_of(self.address)}") from error

    def _head(self, part: int, wanted: str) -> Path:
        """Return the path of one of the first files of a part, of which no more is fetched."""
        with suppress(FileNotFoundError):
            self._node.get(f"{self._unit(part)}.head", partial(self._bring_head, part))
        return self._node.root / f"{self._unit(part)}.head" / wanted

    def _bring_head(self, part: int, folder: Path, make_room: Callable[[int], None]) -> None:
        name = _object(part)
        begun, size = self._objects.begin(name, HEAD_BYTES)
        folder.mkdir()
        for wanted in (RECORD_NAME, SAMPLES_FILE):
            span = member(begun, wanted)
            if span is None:
                continue
            if span[1] > min(size, LARGEST_OBJECT):
                raise CacheDamaged(f"{self}/{name}: it ends within {wanted}. {way_out_of(self.address)}")
            if span[1] > len(begun):
                make_room(span[1])
                begun += self._objects.read_range(name, len(begun), span[1])
            (folder / wanted).write_bytes(begun[slice(*span)])

    def _aside(self, name: str) -> Path:
        """Return the path of a file that is no part's, or of a folder of such files, after bringing it here."""
        unit, last = self._unit_of(name), name.rpartition("/")[2]
        with suppress(FileNotFoundError):
            self._node.get(unit, partial(self._bring_aside, name, last))
        return self._node.root / unit / last

    def _bring_aside(self, name: str, last: str, folder: Path, make_room: Callable[[int], None]) -> None:
        try:
            contents = {last: self.read(name)}
        except FileNotFoundError:
            found = list(self._objects.below(f"{name}/"))
            if not found:
                raise
            contents = {f"{last}/{each.name[len(name) + 1 :]}": self._objects.read(each.name) for each in found}
        make_room(sum(map(len, contents.values())))
        for file, content in contents.items():
            path = folder / _inside(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _as_it_comes(_: int) -> None:
    """Make no room: the folder has no bound."""


def _object(part: int) -> str:
    return f"{part_name(part)}{SUFFIX}"


def _part_of(name: str) -> int | None:
    """Return the part that a name leads to or into; None for other names."""
    steps = name.split("/")
    if len(steps) < 2 or steps[0] != PARTS:
        return None
    return next(iter(part_numbers([steps[1]])), None)


def _inside(name: str) -> str:
    """Return a name; refuse one that leads out of the cache."""
    if name.startswith("/") or any(step in ("", ".", "..") for step in name.split("/")):
        raise CacheDamaged(f"'{name}' leads outside the cache. Do not use this cache.")
    return name
