"""A whole part as one object: an uncompressed ZIP file, whose first member is the commit record.

The same files always make the same bytes, so two writers of one part agree or differ in what they wrote, never in how.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from functools import partial
from pathlib import Path

import xxhash

from logitstore.core.place import below
from logitstore.errors import CacheDamaged
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import LARGEST, unseal_from
from logitstore.store.layout import SAMPLES_FILE

_HEADER = struct.Struct("<4s5H3L2H")
"""Before each member: signature, version, flags, method, time, day, checksum, two sizes, lengths of name and extra field."""

_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(folder: Path) -> bytes:
    """Return the files of a staged part as one object: `part.json`, `samples.arrow` if it has one, then the others by name."""
    names = [path.relative_to(folder).as_posix() for path in below(folder) if path.is_file()]
    names.sort(key=lambda name: (name != RECORD_NAME, name != SAMPLES_FILE, name))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as file:
        for name in names:
            info = zipfile.ZipInfo(name, _EPOCH)
            info.create_system, info.external_attr = 3, 0o644 << 16
            file.writestr(info, (folder / name).read_bytes())
    return buffer.getvalue()


def member(head: bytes, wanted: str) -> tuple[int, int] | None:
    """Return where a member begins and ends in an object of which the beginning is known; None if it is not among the first.

    Args:
        head: the first bytes of the object; the member itself may lie behind them.
        wanted: its name.
    """
    place = 0
    while place + _HEADER.size <= len(head):
        signature, _, flags, method, _, _, _, packed, size, name_bytes, extra_bytes = _HEADER.unpack_from(head, place)
        start = place + _HEADER.size + name_bytes + extra_bytes
        # sizes that stand behind the member, or that need 64 bits, are none of ours
        if signature != b"PK\x03\x04" or method or flags & 8 or packed != size:
            return None
        if head[place + _HEADER.size :][:name_bytes] == wanted.encode():
            return start, start + size
        place = start + size
    return None


def unpack(content: bytes, folder: Path, where: str) -> None:
    """Write the files of a part into a new folder, each after comparing it with the commit record.

    Args:
        content: the object.
        folder: is made.
        where: the part, in messages.

    Raises:
        CacheDamaged: the object is no such file, or a member is not what the record says.
        OSError: the folder cannot be written.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as file:
            infos = file.infolist()
            members = {info.filename: info for info in infos}
            # nothing is inflated, and members that lie over each other would take more room than the object
            if any(info.compress_type for info in infos) or sum(info.file_size for info in infos) > len(content):
                raise CacheDamaged(f"{where}: a member is compressed, or lies over another one.")
            if len(infos) != len(members):
                raise CacheDamaged(f"{where}: two members have one name.")
            # the record that is read alone is the one at the beginning
            if not infos or infos[0].filename != RECORD_NAME or infos[0].header_offset or infos[0].file_size > LARGEST:
                raise CacheDamaged(f"{where}: it does not begin with {RECORD_NAME}.")
            sealed = file.read(members[RECORD_NAME])
            record = unseal_from(PartRecord, where, RECORD_NAME, partial(bytes, sealed))
            if unlike := sorted(members.keys() ^ {RECORD_NAME, *record.files}):
                raise CacheDamaged(f"{where}: its record and its members differ in {', '.join(unlike[:3])}.")
            if RECORD_NAME in record.files:
                raise CacheDamaged(f"{where}: {RECORD_NAME} names itself.")
            _write(folder / RECORD_NAME, sealed)
            for name, expected in record.files.items():
                value = file.read(members[name])
                if (len(value), xxhash.xxh3_128_hexdigest(value)) != (expected.bytes, expected.xxh3_128):
                    raise CacheDamaged(f"{where}: {name} is not what {RECORD_NAME} says.")
                _write(folder / name, value)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        # the folder is new: two names are one, or one is a folder of another
        raise CacheDamaged(f"{where}: its files cannot lie beside each other ({error.filename}).") from error
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, RuntimeError, ValueError) as error:
        raise CacheDamaged(f"{where}: it cannot be read as the object of a part ({error}).") from error


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(content)
        os.fsync(file.fileno())
