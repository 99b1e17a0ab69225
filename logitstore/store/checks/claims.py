"""What a run of `verify` claims about a part: that it was whole, as its record and its files were then.

A claim names the checksum of the commit record, and for each file of the part its name, size, place on the disk and both
times of its last change. One of these, the time that the file system itself keeps, cannot be set by a program. So whatever
changes in a part, or is copied to another place, makes the claim void, and the part is checked again.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import xxhash

from logitstore.core.place import below
from logitstore.errors import LogitstoreError
from logitstore.format.tap import tap_folder
from logitstore.store.layout import part_name, record_name
from logitstore.store.storage import Storage, read_small

SETTLED = 2.0
"""Seconds for which a file must have stood unchanged: a shorter time may be one tick of the clock of a file system, in which
a second change could not be seen."""

MOST_AGE = 7 * 86400.0
"""Seconds after which a claim is no longer taken over: bytes that a disk loses change no time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """A claim about one part.

    Attributes:
        tap: name of its tap; None for a part of the cache.
        part: number of the part.
        record: xxh3-128 of its commit record; for a tap, also of that of the cache's part.
        files: xxh3-128 of what the file system says of its files.
        at: when the part was looked at, in seconds since 1970.
    """

    tap: str | None
    part: int
    record: str
    files: str
    at: float

    @classmethod
    def of(cls, content: dict[str, Any]) -> Claim | None:
        """Return the claim that a line of a journal says; None if it says none."""
        kinds = {"tap": (str, NoneType), "part": (int,), "record": (str,), "files": (str,), "at": (float,)}
        if content.keys() != kinds.keys() or any(type(content[name]) not in kind for name, kind in kinds.items()):
            return None
        return cls(**content)

    def holds(self, now: Claim) -> bool:
        """Return True if the part is still as it was; `now` is what would be claimed of it now."""
        is_same = (self.tap, self.part, self.record, self.files) == (now.tap, now.part, now.record, now.files)
        return is_same and 0 <= now.at - self.at <= MOST_AGE


def claim_of(storage: Storage, tap: str | None, part: int) -> Claim | None:
    """Return what can be claimed of a part if it turns out to be whole; None if its files are too new, or hidden."""
    folder = part_name(part) if tap is None else f"{tap_folder(tap)}/{part_name(part)}"
    records = (
        [record_name(part)] if tap is None else [f"{folder}/{record_name(part).rpartition('/')[2]}", record_name(part)]
    )
    digest, at = xxhash.xxh3_128(), time.time()
    try:
        for name in records:
            digest.update(read_small(storage, name) if storage.size(name) is not None else b"none")
        files, newest = _state_of(storage.local(folder))
    except (LogitstoreError, OSError):
        return None
    if at - newest < SETTLED:
        return None
    return Claim(tap=tap, part=part, record=digest.hexdigest(), files=files, at=at)


def _state_of(folder: Path) -> tuple[str, float]:
    """Return a checksum of what the file system says of the files below a folder, and when the last of them changed."""
    digest, newest = xxhash.xxh3_128(), 0
    for path in (folder, *below(folder)):
        found = os.lstat(path)
        facts = (found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        digest.update(f"{path.relative_to(folder).as_posix()}\0{facts}\n".encode(errors="surrogateescape"))
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
    return digest.hexdigest(), newest / 1e9
