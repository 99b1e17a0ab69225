"""Where things lie in a cache."""

from __future__ import annotations

import os
import re
import stat
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


def part_folder(root: Path, part: int) -> Path:
    return root / PARTS / f"{part:05d}"


def part_folders(root: Path) -> list[int]:
    """Numbers of the folders below `parts/` that look like parts, ascending."""
    try:
        names = os.listdir(root / PARTS)
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if _PART_NAME.fullmatch(name))


def committed_parts(root: Path) -> list[int]:
    """Numbers of the parts that are whole, ascending. Costs one listing of `parts/` and a stat per part."""
    parts = f"{root}/{PARTS}"
    # plain strings: there may be a hundred thousand parts, and a path object takes longer than the question
    return [number for number in part_folders(root) if os.path.isfile(f"{parts}/{number:05d}/{RECORD_NAME}")]


def shared_name(what: str, content: bytes, suffix: str = "") -> str:
    """Path of a shared file; the name carries a hash of the contents, so that two writers never fight over one."""
    return f"{SHARED}/{what}-{xxhash.xxh3_64_hexdigest(content)}{suffix}"


def inside(root: Path, relative: str) -> Path:
    """`root / relative`, refused when links make it leave `root`.

    Raises:
        CacheDamaged: the path resolves to somewhere outside.
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
    """Whether a part of the path below `root` is a link, or could lead upwards; cheaper than to resolve it."""
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
    """Part numbers from a list such as `0-99,120`, checked against the `count` parts there are."""
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
