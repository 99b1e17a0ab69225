"""Where things lie in a cache."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import xxhash

from logitstore.errors import BadInput, CacheDamaged, NoShare
from logitstore.format.part_record import RECORD_NAME

PARTS = "parts"


SHARED = "shared"


PILOT = "pilot"


SIDECARS = "sidecars"


FAILED_NAME = f"{SIDECARS}/failed.json"
"""Parts that a cluster's driver has given up, as a JSON object: the number of each with the reason. Not part of the cache."""


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
    except NotADirectoryError as error:
        raise CacheDamaged(f"{parts}: a file stands there in place of the folder of parts. Remove it.") from error
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
    """Return `root / relative`; refuse a path that leads out of `root`, or through a link below it, even to the same cache.

    Raises:
        CacheDamaged: a piece of the path is a link, or leads upwards.
    """
    return Path(text_inside(root, relative))


def text_inside(root: Path, relative: str) -> str:
    """Return what `inside` does as a text, which is cheaper to make. Raises CacheDamaged: see `inside`."""
    if _has_links(str(root), relative):
        raise CacheDamaged(
            f"{root}: '{relative}' is or lies behind a link, which leads outside the cache. Do not use this cache."
        )
    return f"{root}/{relative}"


def regular(root: Path, relative: str) -> Path:
    """Return `root / relative` as `inside` does; refuse what is neither a file nor a folder, such as a pipe or a device.

    Raises:
        CacheDamaged: a piece of the path is a link, or the path leads to a pipe, a device or a socket.
    """
    path = inside(root, relative)
    with suppress(OSError):
        _refuse_special(str(path))
    return path


def _refuse_special(path: str) -> None:
    mode = os.lstat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CacheDamaged(f"{path}: neither a file nor a folder. Do not use this cache.")


def read_regular(root: Path, relative: str) -> bytes:
    """Return the contents of a regular file below `root`; nothing else is waited for or read.

    Raises:
        CacheDamaged: a piece of the path is a link, or the path leads to a pipe, a device or a socket.
        OSError: there is no such file, or it cannot be read.
    """
    path = text_inside(root, relative)
    with suppress(OSError):
        _refuse_special(path)
    # should a pipe or a link have taken its place since, opening it neither hangs nor follows
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IsADirectoryError(f"{path}: not a file")
        return b"".join(iter(lambda: os.read(descriptor, 1 << 20), b""))
    finally:
        os.close(descriptor)


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
        except (OSError, ValueError):
            return False
    return False


def parse_parts(text: str | None, count: int) -> list[int]:
    """Return the part numbers in a list such as `0-99,120`, ascending; without a list all below `count`.

    Raises:
        BadInput: the text is not such a list, or names a part that is not below `count`.
    """
    if text is None:
        return list(range(count))
    ranges = parse_ranges(text)
    if any(last >= count for _, last in ranges):
        raise BadInput(f"--parts '{text}': this cache has parts 0 to {count - 1}.")
    return sorted({part for first, last in ranges for part in range(first, last + 1)})


def parse_share(text: str | None, count: int) -> tuple[list[int], bool]:
    """Return the part numbers of the share of one job, ascending, and whether its ranges were cut at the last part.

    The jobs of an array have ranges of equal length, so the last ones may end, or lie, beyond the last part. A single number
    there is a slip.

    Raises:
        BadInput: the text is no list of parts, or names a single part that is not below `count`.
        NoShare: all of its ranges lie beyond the last part.
    """
    if text is None:
        return list(range(count)), False
    ranges = parse_ranges(text)
    if any("-" not in piece and first >= count for piece, (first, _) in zip(text.split(","), ranges, strict=True)):
        raise BadInput(f"--parts '{text}': this cache has parts 0 to {count - 1}.")
    parts = sorted({part for first, last in ranges for part in range(first, min(last + 1, count))})
    if not parts:
        raise NoShare(f"--parts '{text}': this cache has parts 0 to {count - 1}, so nothing is left for this job.")
    return parts, any(last >= count for _, last in ranges)


def parse_ranges(text: str) -> list[tuple[int, int]]:
    """Return the first and the last part of each piece of a list such as `0-99,120`.

    Raises:
        BadInput: the text is not such a list.
    """
    ranges = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", piece)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise BadInput(f"--parts '{text}': write numbers and rising ranges, such as 0-99,120.")
        ranges.append((int(match[1]), int(match[2] or match[1])))
    return ranges
