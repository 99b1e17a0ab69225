"""The files of an index: a sealed `index.json`, and beside it a file of bare numbers for each column, which is mapped.

Nothing in them is believed before it is checked: `Unusable` means that the index is made again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import xxhash
from pydantic import Field

from logitstore.core.memo import Memo
from logitstore.core.record import Count, Record
from logitstore.core.types import Array
from logitstore.errors import LogitstoreError
from logitstore.format.sealed import LARGEST, FileSeal, seal, seal_of_bytes, unseal_from
from logitstore.store.index.columns import is_repeated, repeated
from logitstore.store.index.facts import FACTS
from logitstore.store.layout import SIDECARS
from logitstore.store.maps import MAPS, map_file
from logitstore.store.storage import Storage

FOLDER = f"{SIDECARS}/index"

INFO_NAME = "index.json"

KINDS = {kind: np.dtype(kind) for kind in ("u1", "<u2", "<u4", "<i8", "<f4", "S32")} | {"facts": FACTS}
"""The types of columns by the names that `index.json` has for them."""


class Unusable(Exception):
    """An index is missing, foreign, damaged, or about another cache: it is made again."""


class ColumnInfo(Record):
    """One column: the type of its values, how many there are, and the seal of its file.

    Attributes:
        repeated: whether the file holds one value, which stands for all.
    """

    type: Literal["u1", "<u2", "<u4", "<i8", "<f4", "S32", "facts"]
    count: Count
    repeated: bool = False
    seal: FileSeal


class IndexInfo(Record):
    """What an index is about, and its columns; docs/format.md describes every entry."""

    format: Literal["logitstore"] = "logitstore"
    version: Literal[1] = 1
    kind: Literal["index"] = "index"
    plan: str
    planned: Count
    stamp: str | None
    parts: Count
    are_first: bool
    samples: Count
    files: list[str]
    columns: dict[str, ColumnInfo] = Field(max_length=32)


class Columns(Protocol):
    """Columns by name, mapped or in memory."""

    def get(self, name: str) -> Array:
        """Return a column. Raises Unusable: there is none, or it is damaged."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Columns in memory."""

    by_name: Mapping[str, Array]

    def get(self, name: str) -> Array:
        if name not in self.by_name:
            raise Unusable(name)
        return self.by_name[name]


class Mapped:
    """Columns of an index in a storage. Each is mapped and compared with its seal at first use."""

    def __init__(self, home: Storage, folder: str, info: IndexInfo) -> None:
        self._home, self._folder, self._info = home, folder, info
        self._maps = Memo[str, Array](MAPS)

    def get(self, name: str) -> Array:
        return self._maps.get(name, partial(self._map, name))

    def _map(self, name: str) -> Array:
        info = self._info.columns.get(name)
        if info is None:
            raise Unusable(name)
        kind, stored = KINDS[info.type], 1 if info.repeated else info.count
        if info.seal.bytes != stored * kind.itemsize:
            raise Unusable(name)
        if not info.seal.bytes:
            return np.zeros(0, kind)
        file = f"{self._folder}/{file_name(name, info)}"
        try:
            if self._home.size(file) != info.seal.bytes:
                raise Unusable(name)
            content = map_file(self._home.local(file), info.seal.bytes)
        except (OSError, pa.ArrowException, LogitstoreError) as error:
            raise Unusable(name) from error
        if xxhash.xxh3_128_hexdigest(content) != info.seal.xxh3_128:
            raise Unusable(name)
        values = np.frombuffer(content, kind)
        return repeated(values, info.count) if info.repeated else values


def file_name(name: str, info: ColumnInfo) -> str:
    """Return the name of the file of a column: it has a checksum, so that the files of two indices never meet."""
    return f"{name}-{info.seal.xxh3_128[:16]}.bin"


def read_index(home: Storage, folder: str) -> IndexInfo:
    """Return what the index in a folder says of itself. Raises Unusable."""
    name = f"{folder}/{INFO_NAME}"
    try:
        if not 0 < (home.size(name) or 0) <= LARGEST:
            raise Unusable(folder)
        return unseal_from(IndexInfo, folder, INFO_NAME, lambda: home.read(name))
    except (LogitstoreError, OSError) as error:
        raise Unusable(folder) from error


def write_index(home: Storage, folder: str, info: IndexInfo, columns: Mapping[str, Array]) -> IndexInfo:
    """Write an index in place of the one that is there, if there is one; what readers have mapped stays as it is. Return what
    it says of itself.

    Args:
        home: the storage of the cache.
        folder: of the index, in it.
        info: what the index says of itself; the descriptions of its columns are added.
        columns: all columns.

    Raises:
        OSError: the storage cannot be written; the index that was there stays.
        CacheDamaged: the folder leads outside the storage.
    """
    home.within(folder)
    described = {}
    with home.alone():
        for name, values in columns.items():
            content = (values[:1] if is_repeated(values) else values).tobytes()
            kind = next(kind for kind, dtype in KINDS.items() if dtype == values.dtype)
            described[name] = ColumnInfo.model_validate(
                {"type": kind, "count": len(values), "repeated": is_repeated(values), "seal": seal_of_bytes(content)}
            )
            if content:
                home.put(f"{folder}/{file_name(name, described[name])}", content)
        written = info.model_copy(update={"columns": described})
        _write_info(home, folder, written)
    return written


def write_info(home: Storage, folder: str, info: IndexInfo) -> None:
    """Write anew what an index says of itself; its columns stay. Raises OSError, CacheDamaged: see `write_index`."""
    home.within(folder)
    with home.alone():
        _write_info(home, folder, info)


def _write_info(home: Storage, folder: str, info: IndexInfo) -> None:
    home.put(f"{folder}/{INFO_NAME}", seal(info))
    files = {INFO_NAME, *(file_name(name, each) for name, each in info.columns.items())}
    for name in home.names(folder):
        if name not in files and not name.startswith("."):
            home.remove(f"{folder}/{name}")


def drop_index(home: Storage, folder: str) -> None:
    """Remove an index, where that can be done."""
    with suppress(OSError, LogitstoreError):
        home.remove(f"{folder}/{INFO_NAME}")
