"""The values of a cache as a Zarr v3 group, which docs/format.md calls the view of values.

Nothing of it lies on the disk. The metadata are made from the manifest, and a chunk is a run of rows as they are stored,
whatever their parts and their layout; zarr decodes it by the codecs that the metadata name.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest

from logitstore.core.place import Place
from logitstore.core.types import Array
from logitstore.store.cache import Cache
from logitstore.store.values.arrays import SAMPLE, chunk_rows, group_metadata, value_arrays

METADATA = "zarr.json"

_CHUNK = re.compile(r"(\w+)/c/(0|[1-9][0-9]{0,17})((?:/0)*)")


class ValuesStore(Store):  # type: ignore[misc]
    """A read-only Zarr store with the values of the parts that a cache has now.

    A part is opened when a chunk with rows of it is read. Files, sizes and metadata are checked then, as everywhere; the
    values are not.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    supports_consolidated_metadata = False

    def __init__(self, path: Place) -> None:
        """Open a cache; no row is touched. Raises NotACache, CacheDamaged, BadInput: see `logitstore.open`."""
        super().__init__(read_only=True)
        self.cache = Cache(path)
        self._arrays = value_arrays(self.cache.manifest)
        self._ends_P = np.cumsum(self.cache.index.facts()["rows"], dtype=np.int64)
        self._rows = int(self._ends_P[-1]) if len(self._ends_P) else 0

    def __reduce__(self) -> tuple[type[ValuesStore], tuple[Place]]:
        return ValuesStore, (self.cache.path,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ValuesStore) and (self.cache.path, self._rows) == (other.cache.path, other._rows)

    def __hash__(self) -> int:
        return hash((str(self.cache.path), self._rows))

    def __repr__(self) -> str:
        return f"<ValuesStore {self.cache.path}: {self._rows:,} rows of {', '.join(self._arrays)}>"

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        content = await asyncio.to_thread(self._content, key)
        return None if content is None else prototype.buffer.from_bytes(_cut(content, byte_range))

    async def get_partial_values(self, prototype: Any, key_ranges: Iterable[tuple[str, Any]]) -> list[Any]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return key in self._metadata or self._chunk(key) is not None

    async def list(self) -> AsyncIterator[str]:
        for key in self._keys():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        folder = f"{prefix.rstrip('/')}/" if prefix else ""
        rests = (key.removeprefix(folder) for key in self._keys() if key.startswith(folder))
        for name in dict.fromkeys(rest.partition("/")[0] for rest in rests):
            yield name

    async def set(self, key: str, value: Any) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    @cached_property
    def _metadata(self) -> dict[str, bytes]:
        """The metadata documents, by key."""
        documents = {METADATA: group_metadata(self.cache.manifest)}
        documents |= {f"{name}/{METADATA}": array.metadata(self._rows) for name, array in self._arrays.items()}
        return {key: json.dumps(document).encode() for key, document in documents.items()}

    def _keys(self) -> Iterator[str]:
        yield from self._metadata
        chunks = -(-self._rows // chunk_rows(self._rows))
        for name, array in self._arrays.items():
            yield from (f"{name}/c/{number}{'/0' * len(array.shape)}" for number in range(chunks))

    def _chunk(self, key: str) -> tuple[str, int] | None:
        """Return the array of a chunk's key, and the chunk's first row; None if there is no such chunk."""
        match = _CHUNK.fullmatch(key)
        if match is None or match[1] not in self._arrays:
            return None
        name, first = match[1], int(match[2]) * chunk_rows(self._rows)
        return (name, first) if first < self._rows and match[3] == "/0" * len(self._arrays[name].shape) else None

    def _content(self, key: str) -> bytes | None:
        """Return the value of a key; None if there is none. Raises CacheDamaged: see `Cache.part`."""
        if key in self._metadata:
            return self._metadata[key]
        if (found := self._chunk(key)) is None:
            return None
        (name, first), length = found, chunk_rows(self._rows)
        stored = self._stored(name, first, min(first + length, self._rows))
        rows = np.ascontiguousarray(stored, self._arrays[name].stored)
        return rows.tobytes() + bytes((length - len(rows)) * rows[:1].nbytes)

    def _stored(self, name: str, first: int, last: int) -> Array:
        """Return what is stored of the rows from `first` to before `last`."""
        if name == SAMPLE:
            return np.searchsorted(self._sample_ends_S, np.arange(first, last), side="right")
        pieces = []
        begin, end = np.searchsorted(self._ends_P, [first, last - 1], side="right").tolist()
        for place in range(begin, end + 1):
            part = self.cache.part(int(self.cache.index.numbers_P[place]))
            start = int(self._ends_P[place]) - part.record.rows
            pieces.append(part.fields[name][max(first - start, 0) : last - start])
        return np.concatenate(pieces)

    @cached_property
    def _sample_ends_S(self) -> Array:
        """Array with the row after the last one of every sample."""
        return np.cumsum(self.cache.row_counts())


def _cut(content: bytes, byte_range: Any) -> bytes:
    """Return the range of bytes that zarr asks for."""
    if isinstance(byte_range, RangeByteRequest):
        return content[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return content[byte_range.offset :]
    if isinstance(byte_range, SuffixByteRequest):
        return content[-byte_range.suffix :] if byte_range.suffix else b""
    return content
