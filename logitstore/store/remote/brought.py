"""What is brought to this node of one cache or tap: whole parts, the first files of parts, and files beside them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property, partial
from heapq import nlargest
from pathlib import Path

import xxhash

from logitstore.core.place import matching
from logitstore.errors import CacheDamaged, LogitstoreError, NotACache, way_out_of
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import LARGEST, seal_of_bytes, unseal_from
from logitstore.store.layout import PARTS, SAMPLES_FILE
from logitstore.store.remote.bundle import LARGEST_OBJECT, member, unpack
from logitstore.store.remote.names import checked, object_of
from logitstore.store.remote.node import NodeFolder, node_folder
from logitstore.store.remote.objects import PIECE_BYTES, Objects
from logitstore.store.remote.settings import local_cache, local_cache_size
from logitstore.store.remote.uses import parts_together

_HASHED = re.compile(r"shared/[a-z]+-([0-9a-f]{16})\.[a-z]+")
"""A shared file that is no folder: its name has the hash of its contents."""

HEAD_BYTES = 256 << 10
"""So many first bytes of a part are fetched for its record; its samples often are among them."""

RECORD_BYTES = 32 << 10
"""So many first bytes of a part are fetched for the seal of its record, which is rarely longer."""


class Brought:
    """The units of one cache, or of one tap, in the folder of the node."""

    def __init__(self, objects: Objects, plan_name: str, salt: str) -> None:
        """Take the place; nothing is asked.

        Args:
            objects: those of the cache or the tap.
            plan_name: the name of its plan, `cache.json` or `tap.json`.
            salt: what is brought with another one is not shared.
        """
        self._objects, self._plan_name, self._salt = objects, plan_name, salt
        self._damaged: dict[int, CacheDamaged] = {}
        self._fresh: set[str] = set()

    @property
    def node(self) -> NodeFolder:
        """The folder of the node."""
        return node_folder(local_cache(), local_cache_size())

    @cached_property
    def key(self) -> str:
        """What stands for the cache on the node: its address, and which plan lies there."""
        return self._key_of(self._objects.read(self._plan_name))

    def learn(self, name: str, content: bytes) -> None:
        """Take note of the plan, when it is read anyway."""
        if name == self._plan_name and not self._is_known:
            self.key = self._key_of(content)

    @property
    def _is_known(self) -> bool:
        return "key" in self.__dict__

    def _key_of(self, content: bytes) -> str:
        plan = xxhash.xxh3_128_hexdigest(content)
        with suppress(LogitstoreError):
            if self._plan_name == MANIFEST_NAME:
                # more views change the file, but no part
                plan = unseal_from(Manifest, self._objects.address, MANIFEST_NAME, partial(bytes, content)).identity
        return xxhash.xxh3_64_hexdigest(f"{self._objects.address}\0{plan}\0{self._salt}".encode())

    def has(self, part: int) -> bool:
        """Say whether a whole part is here."""
        return self.node.has(self._unit(part))

    def _unit(self, part: int) -> str:
        return f"{self.key}/{part:05d}"

    def _unit_of(self, name: str) -> str:
        return f"{self.key}/{xxhash.xxh3_64_hexdigest(name.encode())}.file"

    def forget_part(self, part: int) -> None:
        """Let nobody here read what a part was before."""
        self._damaged.pop(part, None)
        with suppress(FileNotFoundError):  # without a plan there nothing was brought
            for unit in (self._unit(part), f"{self._unit(part)}.head"):
                self._fresh.discard(unit)
                self.node.drop(unit)

    def forget(self, name: str) -> None:
        """Let nobody here read what a file was before."""
        if self._is_known:
            self.node.drop(self._unit_of(name))

    def forget_all(self) -> None:
        """Remove all of it."""
        if self._is_known:
            self.node.drop_all(self.key)

    def part(self, part: int, inside: str = "") -> Path:
        """Return the path of a part or of a file in it, after bringing the part here; a path to nothing if there is none."""
        if part in self._damaged:
            raise self._damaged[part]
        try:
            self._get(part, self._unit(part), self._bring)
        except FileNotFoundError:
            pass  # there is none
        except CacheDamaged as error:
            self._damaged[part] = error
            raise
        return self.node.root / self._unit(part) / inside

    def _get(self, part: int, unit: str, bring: Callable[[int, Path, Callable[[int], None]], None]) -> None:
        """Bring a unit of a part, or make sure once that the one that is here is of the part that lies in the store now.

        Who repairs a cache, or writes it again, changes parts of the same plan; other machines hear nothing of that.
        """

        def brought(folder: Path, make_room: Callable[[int], None]) -> None:
            bring(part, folder, make_room)
            self._fresh.add(unit)

        self.node.get(unit, brought, self._least)
        if unit not in self._fresh:
            if (self.node.root / unit / RECORD_NAME).read_bytes()[-36:-4] != self.digest(part):
                self.node.drop(unit)
                self.node.get(unit, brought, self._least)
            self._fresh.add(unit)

    def _least_first(self, held: Mapping[str, int], size: int) -> int:
        """Return the bytes of the node with which a reading works that has no part yet: those of all files beside parts too."""
        with suppress(LogitstoreError):
            return self._least(held, size) + size + sum(each.size for each in self._objects.below("shared/"))
        return 0

    def _least(self, held: Mapping[str, int], _: int) -> int:
        """Return the bytes of the node with which a reading works: the largest parts of this place, as many as may be in use
        at one moment, and what else this process has in hand."""
        own = re.compile(rf"{self.key}/[0-9]+(\.head)?")
        with suppress(LogitstoreError):
            sizes = (each.size for each in self._objects.below(f"{PARTS}/"))
            others = sum(size for unit, size in held.items() if not own.fullmatch(unit))
            return others + sum(nlargest(parts_together(), sizes))
        return 0

    def _bring(self, part: int, folder: Path, make_room: Callable[[int], None]) -> None:
        """Fetch a part, and check it; once more if it arrives damaged."""
        name, address = object_of(part), self._objects.address
        for is_last in (False, True):
            begun, size = self._objects.begin(name, PIECE_BYTES)
            if size > LARGEST_OBJECT:
                raise CacheDamaged(
                    f"{address}/{name}: {size:,} bytes are more than any part has. Do not use this cache."
                )
            make_room(size)
            try:
                unpack(self._objects.rest(name, begun, size), folder, f"{address}/{name}")
                return
            except (CacheDamaged, NotACache) as error:
                for path in matching(folder, "*"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if is_last and isinstance(error, NotACache):
                    raise
                if is_last:
                    raise CacheDamaged(f"{error} It came so twice. {way_out_of(address)}") from error

    def bring_to(self, part: int, folder: Path) -> None:
        """Write the files of a part into an empty folder anywhere. Raises as `Far.bring_to` does."""
        self._bring(part, folder, lambda _: None)

    def digest(self, part: int) -> bytes:
        """Return the digits that seal the record of a part as it lies there now. Raises as `Far.digest` does."""
        where, name = self._objects.address, object_of(part)
        begun, _ = self._objects.begin(name, RECORD_BYTES)
        span = member(begun, RECORD_NAME)
        if span is None or span[1] - span[0] > LARGEST:
            raise CacheDamaged(f"{where}/{name}: it does not begin with {RECORD_NAME}. {way_out_of(where)}")
        if span[1] > len(begun):
            begun += self._objects.read_range(name, len(begun), span[1])
        return begun[span[1] - 36 : span[1] - 4]

    def head(self, part: int, wanted: str) -> Path:
        """Return the path of one of the first files of a part, of which no more is fetched."""
        with suppress(FileNotFoundError):
            self._get(part, f"{self._unit(part)}.head", self._bring_head)
        return self.node.root / f"{self._unit(part)}.head" / wanted

    def _bring_head(self, part: int, folder: Path, make_room: Callable[[int], None]) -> None:
        name = object_of(part)
        begun, size = self._objects.begin(name, HEAD_BYTES)
        contents = {}
        for wanted in (RECORD_NAME, SAMPLES_FILE):
            span = member(begun, wanted)
            if span is None:
                continue
            if span[1] > min(size, LARGEST_OBJECT) or (wanted == RECORD_NAME and span[1] > LARGEST + HEAD_BYTES):
                raise CacheDamaged(
                    f"{self._objects.address}/{name}: it ends within {wanted}. {way_out_of(self._objects.address)}"
                )
            make_room(span[1])
            if span[1] > len(begun):
                begun += self._objects.read_range(name, len(begun), span[1])
            contents[wanted] = begun[slice(*span)]
        if SAMPLES_FILE in contents:
            record = unseal_from(
                PartRecord, f"{self._objects.address}/{name}", RECORD_NAME, lambda: contents[RECORD_NAME]
            )
            if record.files.get(SAMPLES_FILE) != seal_of_bytes(contents[SAMPLES_FILE]):
                raise CacheDamaged(f"{self._objects.address}/{name}: {SAMPLES_FILE} is not what {RECORD_NAME} says.")
        folder.mkdir()
        for wanted, content in contents.items():
            (folder / wanted).write_bytes(content)

    def aside(self, name: str, read: Callable[[str], bytes]) -> Path:
        """Return the path of a file that is no part's, or of a folder of such files, after bringing it here."""
        unit, last = self._unit_of(name), name.rpartition("/")[2]
        with suppress(FileNotFoundError):
            self.node.get(unit, partial(self._bring_aside, name, last, read), self._least_first)
        return self.node.root / unit / last

    def _bring_aside(
        self, name: str, last: str, read: Callable[[str], bytes], folder: Path, make_room: Callable[[int], None]
    ) -> None:
        try:
            contents = {last: read(name)}
        except FileNotFoundError:
            found = list(self._objects.below(f"{name}/"))
            if not found:
                raise
            contents = {f"{last}/{each.name[len(name) + 1 :]}": self._objects.read(each.name) for each in found}
        found_hash = _HASHED.fullmatch(name)
        if found_hash is not None and xxhash.xxh3_64_hexdigest(contents[last]) != found_hash[1]:
            raise CacheDamaged(f"{self._objects.address}/{name}: its contents are not those that its name says.")
        make_room(sum(map(len, contents.values())))
        for file, content in contents.items():
            path = folder / checked(file)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
