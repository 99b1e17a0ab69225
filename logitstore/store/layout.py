"""Where things lie in a cache."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

import xxhash

from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.part_record import RECORD_NAME

PARTS = "parts"


SHARED = "shared"


PILOT = "pilot"


SAMPLES_FILE = "samples.arrow"


ROWS_FOLDER = "rows.zarr"


_PART_NAME = re.compile(r"[0-9]{5}|[1-9][0-9]{5,}")


def part_name(part: int) -> str:
    """Return the name of the folder of a part."""
    return f"{PARTS}/{part:05d}"


def record_name(part: int) -> str:
    """Return the name of the commit record of a part."""
    return f"{PARTS}/{part:05d}/{RECORD_NAME}"


def part_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the names, of what lies below `parts/`, that look like parts, ascending."""
    return sorted(int(name) for name in names if _PART_NAME.fullmatch(name))


def part_folder(root: Path, part: int) -> Path:
    """Return the folder of a part of a cache on the local disk."""
    return root / PARTS / f"{part:05d}"


def committed_parts(root: Path) -> list[int]:
    """Return the numbers of the committed parts of a cache on the local disk, ascending.

    Costs one listing of `parts/` and a stat per part.
    """
    parts = f"{root}/{PARTS}"
    try:
        names = os.listdir(parts)
    except FileNotFoundError:
        return []
    # plain strings: there may be a hundred thousand parts, and a path object takes longer than the question
    return [number for number in part_numbers(names) if _is_file(f"{parts}/{number:05d}/{RECORD_NAME}")]


def _is_file(path: str) -> bool:
    """Say whether a file is there. A refusal to say is raised: a part that a failing disk hides is not a missing one."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def shared_name(what: str, content: bytes, suffix: str = "") -> str:
    """Return the path of a shared file. Its name contains a hash of its contents, so two writers never overwrite each other."""
    return f"{SHARED}/{what}-{xxhash.xxh3_64_hexdigest(content)}{suffix}"


def inside(root: Path, relative: str) -> Path:
    """Return `root / relative`; refuse a path that leaves `root` through links.

    Raises:
        CacheDamaged: the path resolves to a place outside `root`.
    """
    path = root / relative
    if not _has_links(str(root), relative):
        return path
    try:
        target = path.resolve()
    except (OSError, RuntimeError) as error:
        raise CacheDamaged(f"{root}: '{relative}' is a link that leads to itself. Do not use this cache.") from error
    if not target.is_relative_to(root.resolve()):
        raise CacheDamaged(f"{root}: '{relative}' leads outside the cache. Do not use this cache.")
    return path


def _has_links(root: str, relative: str) -> bool:
    """Return True if a piece of the path below `root` is a link, or may lead upwards. It is cheaper than resolving the path."""
    pieces = relative.split("/")
    if relative.startswith("/") or ".." in pieces:
        return True
    path = root
    for piece in pieces:
        path = f"{path}/{piece}"
        try:
            if stat.S_ISLNK(os.lstat(path).st_mode):
                return True
        except OSError:
            return False
    return False


def parse_parts(text: str, count: int) -> list[int]:
    """Return the part numbers in a list such as `0-99,120`, ascending.

    Raises:
        BadInput: the text is not such a list, or names a part that is not below `count`.
    """
    chosen: set[int] = set()
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", piece)
        if match is None:
            raise BadInput(f"--parts '{text}': write numbers and ranges, such as 0-99,120.")
        first, last = int(match[1]), int(match[2] or match[1])
        if first > last or last >= count:
            raise BadInput(f"--parts '{text}': this cache has parts 0 to {count - 1}.")
        chosen.update(range(first, last + 1))
    return sorted(chosen)
