"""A whole part as one object: an uncompressed ZIP file, whose first member is the commit record.

The same files always make the same bytes, so two writers of one part agree or differ in what they wrote, never in how; and the
record alone says what every byte of the object has to be that is not in one of its members.
"""

from __future__ import annotations

import os
import struct
import zlib
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import xxhash

from logitstore.core.place import below
from logitstore.errors import CacheDamaged, StorageError
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import LARGEST, unseal_from
from logitstore.store.layout import SAMPLES_FILE

LARGEST_OBJECT, MOST_MEMBERS = 2**32 - 1, 2**16 - 2
"""Most bytes and members of an object: sizes and places in a ZIP file have 32 bits, counts 16. S3 takes 5 GiB in a request."""

_BEFORE = struct.Struct("<4s5H3L2H")
"""Before each member: signature, version, flags, method, time, day, checksum, two sizes, lengths of name and extra field."""

_ENTRY = struct.Struct("<4s4B4H3L5H2L")
"""In the directory for each member: the same with two versions more, length of a comment, disk, attributes, place."""

_END = struct.Struct("<4s4H2LH")
"""Behind the directory: signature, two disks, count of entries twice, bytes and place of the directory, length of a comment."""

_VERSION, _UNIX, _UTF8 = 20, 3, 0x800

_TIME, _DAY = 0, 1 << 5 | 1
"""1980-01-01 00:00:00."""

_MODE = 0o644 << 16


class _Member(NamedTuple):
    name: str
    size: int
    checksum: int


def _around(members: list[_Member]) -> tuple[list[bytes], bytes]:
    """Return what stands before each member of an object, and what stands behind the last one."""
    headers, entries, place = [], [], 0
    for name, size, checksum in members:
        path = name.encode()
        common = (0 if name.isascii() else _UTF8, 0, _TIME, _DAY, checksum, size, size, len(path), 0)
        headers.append(_BEFORE.pack(b"PK\x03\x04", _VERSION, *common) + path)
        entries.append(_ENTRY.pack(b"PK\x01\x02", _VERSION, _UNIX, _VERSION, 0, *common, 0, 0, 0, _MODE, place) + path)
        place += len(headers[-1]) + size
    directory = b"".join(entries)
    end = _END.pack(b"PK\x05\x06", 0, 0, len(entries), len(entries), len(directory), place, 0)
    return headers, directory + end


def _in_order(names: list[str]) -> list[str]:
    """Return the names of members as they follow each other: the record, the samples, then the others by name."""
    return sorted(names, key=lambda name: (name != RECORD_NAME, name != SAMPLES_FILE, name))


def pack(folder: Path, where: str) -> bytes:
    """Return the files of a staged part as one object: `part.json`, `samples.arrow` if it has one, then the others by name.

    Args:
        folder: the part.
        where: the part, in messages.

    Raises:
        StorageError: an object cannot be so large.
    """
    names = _in_order([path.relative_to(folder).as_posix() for path in below(folder) if path.is_file()])
    size = sum((folder / name).stat().st_size + _BEFORE.size + _ENTRY.size + 2 * len(name.encode()) for name in names)
    if size + _END.size > LARGEST_OBJECT or len(names) > MOST_MEMBERS:
        raise StorageError(
            f"{where} has {size:,} bytes in {len(names):,} files; as an object it may have {LARGEST_OBJECT:,} in "
            f"{MOST_MEMBERS:,}. Begin the cache again with a smaller --part-bytes."
        )
    values = [(folder / name).read_bytes() for name in names]
    headers, behind = _around(
        [_Member(name, len(value), zlib.crc32(value)) for name, value in zip(names, values, strict=True)]
    )
    return b"".join([*chain.from_iterable(zip(headers, values, strict=True)), behind])


def member(head: bytes, wanted: str) -> tuple[int, int] | None:
    """Return where a member begins and ends in an object of which the beginning is known; None if it is not among the first.

    Args:
        head: the first bytes of the object; the member itself may lie behind them.
        wanted: its name.
    """
    place = 0
    while place + _BEFORE.size <= len(head):
        signature, _, flags, method, _, _, _, packed, size, name_bytes, extra_bytes = _BEFORE.unpack_from(head, place)
        start = place + _BEFORE.size + name_bytes + extra_bytes
        # sizes that stand behind the member, or that need 64 bits, are none of ours
        if signature != b"PK\x03\x04" or method or flags & 8 or packed != size:
            return None
        if head[place + _BEFORE.size :][:name_bytes] == wanted.encode():
            return start, start + size
        place = start + size
    return None


def unpack(content: bytes, folder: Path, where: str) -> None:
    """Write the files of a part into a new folder, after comparing every byte of the object with what the record implies.

    Args:
        content: the object.
        folder: is made.
        where: the part, in messages.

    Raises:
        CacheDamaged: the object is no such file, or a byte of it is not what the record says or implies.
        NotACache: the record is one of a newer version.
        OSError: the folder cannot be written.
    """
    try:
        values = _values(memoryview(content), where)
        for name, value in values.items():
            _write(folder / name, value)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        # the folder is new: two names are one, or one is a folder of another
        raise CacheDamaged(f"{where}: its files cannot lie beside each other ({error.filename}).") from error
    except (struct.error, ValueError) as error:
        raise CacheDamaged(f"{where}: it cannot be read as the object of a part ({error}).") from error


def _values(content: memoryview, where: str) -> dict[str, memoryview]:
    """Return the contents of the members by their names, the record first. Raises CacheDamaged: see `unpack`."""
    span = member(bytes(content[: _BEFORE.size + len(RECORD_NAME)]), RECORD_NAME)
    if span is None or not span[1] - LARGEST <= span[0] <= span[1] <= len(content):
        raise CacheDamaged(f"{where}: it does not begin with {RECORD_NAME}.")
    sealed = content[slice(*span)]
    record = unseal_from(PartRecord, where, RECORD_NAME, partial(bytes, sealed))
    if RECORD_NAME in record.files:
        raise CacheDamaged(f"{where}: {RECORD_NAME} names itself.")
    values, members, places, place = {RECORD_NAME: sealed}, [], [], 0
    for name in _in_order([RECORD_NAME, *record.files]):
        start = place + _BEFORE.size + len(name.encode())
        if name != RECORD_NAME:
            expected = record.files[name]
            values[name] = content[start : start + expected.bytes]
            if (len(values[name]), xxhash.xxh3_128_hexdigest(values[name])) != (expected.bytes, expected.xxh3_128):
                raise CacheDamaged(f"{where}: {name} is not what {RECORD_NAME} says.")
        members.append(_Member(name, len(values[name]), zlib.crc32(values[name])))
        places.append(place)
        place = start + len(values[name])
    headers, behind = _around(members)
    for place_of_header, header, (name, _, _) in zip(places, headers, members, strict=True):
        if content[place_of_header : place_of_header + len(header)] != header:
            raise CacheDamaged(f"{where}: what stands before {name} is not what {RECORD_NAME} implies.")
    if content[place:] != behind:
        raise CacheDamaged(f"{where}: what stands behind its files is not what {RECORD_NAME} implies.")
    return values


def _write(path: Path, content: memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        os.fsync(file.fileno())
