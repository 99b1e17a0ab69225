"""A place where something lies: a path on the local disk, or a text such as `s3://bucket/name` for another storage.

What lies in a folder is listed here: a folder that cannot be listed is refused; `glob` and `rglob` take it for an empty one.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

Place = str | Path
"""A path, or a text `scheme://rest`. Such a text is no path: `Path` would make one slash of the two."""

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)

_MEANT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def split_scheme(place: Place) -> tuple[str, str]:
    """Return the scheme and the rest of a place. The scheme of a path is the empty text."""
    match = _ADDRESS.fullmatch(place) if isinstance(place, str) else None
    return ("", str(place)) if match is None else (match[1], match[2])


def looks_like_address(place: Place) -> bool:
    """Return True for what was meant as the address of a storage and would be taken for a path: `S3://bucket/name`, or
    `s3:/bucket/name`, which `Path` makes of two slashes."""
    return _MEANT.match(str(place)) is not None


def is_utf8(place: Place) -> bool:
    """Return True if a place can be written in UTF-8, as Arrow and the tokenizers want the paths that they open."""
    try:
        str(place).encode()
    except UnicodeEncodeError:
        return False
    return True


def below(folder: Path, enters: Callable[[os.DirEntry[str]], bool] | None = None) -> Iterator[Path]:
    """Return all that lies below a folder, sorted, a folder before its contents; nothing if there is no folder.

    Args:
        folder: where to look.
        enters: whether to look into what the entry is; without it, into folders but not through links.

    Raises:
        OSError: a folder cannot be listed.
    """
    is_entered = enters or (lambda entry: entry.is_dir(follow_symlinks=False))
    left = _entries(folder)[::-1]
    while left:
        entry = left.pop()
        yield Path(entry.path)
        if is_entered(entry):
            left.extend(reversed(_entries(Path(entry.path))))


def matching(folder: Path, pattern: str) -> list[Path]:
    """Return what lies directly in a folder under names of a pattern, sorted; nothing if there is no folder.

    Raises:
        OSError: the folder cannot be listed.
    """
    return [Path(entry.path) for entry in _entries(folder) if fnmatch.fnmatchcase(entry.name, pattern)]


def globbed(pattern: str) -> list[Path]:
    """Return what a glob names, sorted; `**` stands for folders of any depth.

    Raises:
        OSError: a folder that the glob looks into cannot be listed.
    """
    for parent in Path(pattern).parents:
        for found in glob.glob(str(parent), recursive=True):
            if Path(found).is_dir():
                os.scandir(found).close()
    return [Path(match) for match in sorted(set(glob.glob(pattern, recursive=True)))]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
