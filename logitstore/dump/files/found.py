"""Data files that were found: none is there twice, and none is passed over."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Iterable
from pathlib import Path

from logitstore.core.place import below
from logitstore.dump.files.places import ending_of
from logitstore.errors import BadInput

_BESIDE = re.compile(r"(?i)readme|licen[cs]e|copying|notice|authors|contributors|change(s|log)|citation|requirements")
"""Beginnings of the names of files that say something about the data beside them."""


def refuse_twice(source: str, files: list[Path]) -> None:
    """Refuse files of which two are one. Raises BadInput: names both."""
    seen: dict[tuple[int, int], Path] = {}
    for file in files:
        state = file.stat()
        if (other := seen.setdefault((state.st_dev, state.st_ino), file)) is not file:
            raise BadInput(
                f"--data {source}: {other} and {file} are the same file, whose rows would be there twice. Name the files "
                "with a glob that leaves one of them out."
            )


def refuse_left_out(folder: Path, endings: Collection[str], read: Iterable[Path]) -> None:
    """Refuse a folder with data files that `datasets` passes over: those of another kind than most, and those without a split
    where others are named like splits.

    Args:
        folder: of the data.
        endings: of the names of data files.
        read: the files of all splits.

    Raises:
        BadInput: names the first one.
    """
    known = {file.resolve() for file in read}
    ignored = set(importlib.import_module("datasets.data_files").FILES_TO_IGNORE)
    for file in below(folder):
        inside = file.relative_to(folder)
        is_data = ending_of(file) in endings and file.name not in ignored and not _BESIDE.match(file.name)
        is_hidden = any(part.startswith((".", "__")) for part in inside.parts)
        if is_data and not is_hidden and file.is_file() and file.resolve() not in known:
            raise BadInput(
                f"--data {folder}: {inside} would be passed over: most files are of another kind, or are named like splits. "
                "Name those to read with a glob, or move it elsewhere."
            )
