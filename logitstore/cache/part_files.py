"""The files of a part against its commit record: what must hold before any of them is mapped."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from logitstore.cache import layout
from logitstore.cache.rows_file import needed_files
from logitstore.errors import CacheDamaged, CacheMismatch
from logitstore.fields import FieldInfo
from logitstore.manifest import RECORD_NAME, PartRecord
from logitstore.sealed import FileSeal, unseal


class PartsPlan(Protocol):
    """What decides some parts: a manifest, or the plan of a tap."""

    @property
    def identity(self) -> str: ...

    @property
    def fields(self) -> dict[str, FieldInfo]: ...

    @property
    def layout(self) -> str: ...

    @property
    def parts(self) -> int: ...

    def samples_in(self, part: int) -> int:
        """How many samples part number `part` holds."""
        ...


def open_record(root: Path, plan: PartsPlan, number: int, also: Iterable[str] = ()) -> PartRecord:
    """The commit record of a part whose files have the right sizes and which lists all that is needed.

    Args:
        root: the folder of a cache or of a tap.
        plan: of it.
        number: of the part.
        also: files that are needed besides the rows.

    Raises:
        CacheDamaged: a file is missing, truncated or outside the cache.
        CacheMismatch: the part was written under another plan.
    """
    record = read_record(root, plan, number)
    check_sizes(root, number, record)
    rows = needed_files(plan.fields, plan.layout, record.rows)
    # only what the record lists was checked not to lead outside, so nothing else is opened
    needed = {*also, *(f"{layout.ROWS_FOLDER}/{file}" for file in rows)}
    if unlisted := sorted(needed - record.files.keys()):
        raise CacheDamaged(f"{root}: the record of part {number:05d} does not list {', '.join(unlisted)}.")
    return record


def read_record(root: Path, plan: PartsPlan, number: int) -> PartRecord:
    """The commit record of a part.

    Raises:
        CacheDamaged: it is broken, or about another part.
        CacheMismatch: it belongs to another plan.
    """
    record = unseal(PartRecord, layout.inside(root, f"{layout.PARTS}/{number:05d}/{RECORD_NAME}"))
    if record.plan != plan.identity:
        raise CacheMismatch(
            f"{root}: part {number:05d} was written under another plan. "
            "Run `logitstore verify CACHE --repair`, then the command that wrote it again."
        )
    if record.part != number or record.samples != plan.samples_in(number):
        raise CacheDamaged(f"{root}: the record of part {number:05d} is about another part. Run `logitstore verify`.")
    return record


def check_sizes(root: Path, number: int, record: PartRecord) -> None:
    """Raises CacheDamaged when a file of the part is missing or has another size than its seal says."""
    check_files(root, f"{layout.PARTS}/{number:05d}/", record.files)


def check_files(root: Path, folder: str, files: dict[str, FileSeal]) -> None:
    """Raises CacheDamaged when one of the files below `folder` is missing or has another size than its seal says."""
    for name, sealed in files.items():
        path = layout.inside(root, f"{folder}{name}")
        try:
            found = path.stat()
            size = found.st_size if stat.S_ISREG(found.st_mode) else None
        except OSError:
            size = None
        if size != sealed.bytes:
            what = "is missing" if size is None else f"has {size} bytes instead of {sealed.bytes}"
            raise CacheDamaged(
                f"{root}: {folder}{name} {what}. Run `logitstore verify CACHE --repair`, then the command that wrote it again."
            )
