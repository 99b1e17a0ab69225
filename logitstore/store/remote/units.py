"""What lies in the folder of a node: units, and those that are being brought or removed, with their bytes."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import struct
from collections.abc import Container, Iterator
from pathlib import Path

from logitstore.core.place import below
from logitstore.errors import storage_errors
from logitstore.store.remote.locks import ByteLocks, place_of

PARTIAL, ROOM = ".partial-", "room"
"""Beside a unit that is being brought lies a file without contents of the size that it will have."""


def units(root: Path, *, partial: bool = False) -> Iterator[tuple[str, Path]]:
    """Return the units with their folders; with `partial` those that are being brought or removed."""
    # what begins with a dot is no cache: parts that are being written lie there
    for cache in (path for path in root.iterdir() if path.name[0] != "." and path.is_dir()):
        for path in cache.iterdir():
            if (PARTIAL in path.name) is partial:
                yield f"{cache.name}/{path.name}".partition(PARTIAL)[0], path


def bytes_of(folder: Path) -> int:
    """Return the bytes of all files below a folder. Folders have sizes too, of which nobody knows before they are made."""
    total = 0
    for path in below(folder):
        with contextlib.suppress(FileNotFoundError):
            known = os.lstat(path)
            total += 0 if stat.S_ISDIR(known.st_mode) else known.st_size
    return total


def room_of(staged: Path) -> int:
    """Return the bytes that are kept free for a unit that is being brought."""
    try:
        return (staged / ROOM).lstat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return 0


def sweep(root: Path, locks: ByteLocks, ours: Container[str]) -> bool:
    """Remove what killed processes had begun to bring or to remove, with what they kept free. Say whether there was any.

    Args:
        root: the folder of the units.
        locks: those of its file.
        ours: the units that this process is bringing.
    """
    found = False
    for unit, path in units(root, partial=True):
        place = place_of(unit, "brought")
        if unit not in ours and locks.take(place, shared=False):
            found = True
            try:
                shutil.rmtree(path, ignore_errors=True)
            finally:
                locks.leave(place)
    return found


class Total:
    """The bytes of all units, and those that are kept free for others: a number at the beginning of a file, for all processes.

    Whoever calls a method has the lock that allows to count.
    """

    def __init__(self, root: Path, file: int) -> None:
        """Take the folder of the units, and the descriptor of the file."""
        self._root, self._file = root, file

    def get(self) -> int:
        """Return the number; where nobody has counted yet, count."""
        content = os.pread(self._file, 8, 0)
        if len(content) == 8:
            return int(struct.unpack("<q", content)[0])
        return self.again()

    def again(self) -> int:
        """Count again, and return the number."""
        total = sum(bytes_of(path) for _, path in units(self._root)) + self.kept_free()
        self.set(total)
        return total

    def kept_free(self) -> int:
        """Return the bytes that are kept free for units that are being brought."""
        return sum(room_of(path) for _, path in units(self._root, partial=True))

    def set(self, total: int) -> None:
        """Write the number. Raises StorageError: the disk refuses it."""
        with storage_errors(self._root):
            os.pwrite(self._file, struct.pack("<q", total), 0)

    def add(self, more: int) -> None:
        """Add to the number, or take away from it."""
        self.set(self.get() + more)
