"""`verify`: every checksum and every invariant of a cache; `repair` drops what is broken so that `dump` re-makes only that."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import CacheMismatch, LogitstoreError, NotACache, storage_errors
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME
from logitstore.format.sealed import is_sealed, seal_of, unseal
from logitstore.format.tap import TAP_NAME, TapInfo, tap_folder
from logitstore.store import layout
from logitstore.store.checks.rows import feature_block_problems, row_block_problems
from logitstore.store.part import Part, PartsPlan, read_record
from logitstore.store.samples import stored_samples
from logitstore.store.taps import Tap, tap_folders

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that is wrong. `part` is None for what all parts share, `tap` for what no tap holds; `file` is relative to
    the cache."""

    part: int | None
    file: str
    what: str
    tap: str | None = None

    def __str__(self) -> str:
        where = "the cache" if self.part is None else f"part {self.part:05d}"
        if self.tap is not None:
            where = f"tap {self.tap}" + ("" if self.part is None else f", part {self.part:05d}")
        return f"{where}: {self.file}: {self.what}"

    @property
    def dropped(self) -> str:
        """What `repair` drops because of it, relative to the cache."""
        if self.part is None:
            return self.file
        root = "" if self.tap is None else f"{tap_folder(self.tap)}/"
        return f"{root}{layout.PARTS}/{self.part:05d}"


def verify(root: Path, progress: Progress = no_progress) -> list[Problem]:
    """Everything that is wrong with a cache, in order; empty for a sound one. Missing parts are not wrong.

    Raises:
        NotACache: the folder holds no cache at all.
    """
    try:
        manifest = unseal(Manifest, root / MANIFEST_NAME)
    except LogitstoreError as error:
        path = root / MANIFEST_NAME
        if not (root / layout.PARTS).is_dir() or (path.is_file() and is_sealed(path.read_bytes())):
            raise
        return [Problem(part=None, file=MANIFEST_NAME, what=str(error))]
    problems = shared_problems(root, manifest)
    samples_are_readable, shared, unreadable = _shared_samples(root, manifest, problems)
    problems += unreadable
    numbers = layout.part_folders(root)
    for done, number in enumerate(numbers, 1):
        if number < manifest.parts:
            problems += (
                part_problems(root, manifest, number, shared)
                if samples_are_readable
                else _file_problems(root, manifest, number)
            )
        else:
            folder = f"{layout.PARTS}/{number:05d}"
            problems.append(Problem(part=number, file=folder, what="a part that the plan does not have"))
        progress(Step(stage="verify", done=done, total=len(numbers), part=number))
    problems = problems or _count_problems(root, manifest, numbers)
    for name in tap_folders(root):
        problems += tap_problems(root, manifest, name, progress)
    return problems


def _shared_samples(root: Path, manifest: Manifest, problems: list[Problem]) -> tuple[bool, Any, list[Problem]]:
    """Open what all parts share about their samples.

    Return whether parts can be read, what was opened, and what is wrong with it. If something is wrong, parts cannot be read,
    which is no fault of theirs: only their files are looked at.
    """
    stored = stored_samples(manifest)
    file = next(
        (name for name in manifest.shared if name.startswith(f"{layout.SHARED}/{stored.shared}-")), MANIFEST_NAME
    )
    is_known = any(problem.file == file for problem in problems)
    try:
        shared = stored.open_shared(root, manifest)
    except LogitstoreError as error:
        return False, None, [] if is_known else [Problem(part=None, file=file, what=str(error))]
    return not is_known, shared, []


def _count_problems(root: Path, manifest: Manifest, numbers: list[int]) -> list[Problem]:
    """Whether the rows and tokens of all parts are those that the plan of a complete cache names."""
    if len(numbers) < manifest.parts:
        return []
    records = [read_record(root, manifest, number) for number in numbers]
    found = (sum(record.rows for record in records), sum(record.tokens for record in records))
    named = (manifest.rows * manifest.views, manifest.tokens * manifest.views)
    if found == named:
        return []
    what = f"it names {named[0]} rows and {named[1]} tokens; the parts hold {found[0]} and {found[1]}"
    return [Problem(part=None, file=MANIFEST_NAME, what=what)]


def tap_problems(root: Path, manifest: Manifest, name: str, progress: Progress = no_progress) -> list[Problem]:
    """What is wrong with one tap: its plan, its shared file, its parts."""
    folder = tap_folder(name)
    try:
        tap = Tap(root, manifest, name)
    except LogitstoreError as error:
        # what belongs to another cache is of no use to this one; a broken plan is written again as it was
        file = folder if isinstance(error, CacheMismatch) else f"{folder}/{TAP_NAME}"
        return [Problem(part=None, file=file, what=str(error), tap=name)]
    found = shared_problems(tap.path, tap.info)
    if not found:
        try:
            _ = tap.codec
        except LogitstoreError as error:
            found = [Problem(part=None, file=file, what=str(error)) for file in tap.info.shared]
    numbers = layout.part_folders(tap.path)
    for done, number in enumerate(numbers, 1):
        found += _tap_part_problems(root, tap, number)
        progress(Step(stage=f"verify {name}", done=done, total=len(numbers), part=number))
    return [replace(problem, file=f"{folder}/{problem.file}", tap=name) for problem in found]


def _tap_part_problems(root: Path, tap: Tap, number: int) -> list[Problem]:
    """What is wrong with one part of a tap; files are relative to the tap."""
    folder = f"{layout.PARTS}/{number:05d}"
    if number >= tap.plan.parts:
        return [Problem(part=number, file=folder, what="a part that the plan does not have")]
    if found := _file_problems(tap.path, tap.plan, number):
        return found
    try:
        fields = tap.part(number)
        own = read_record(root, tap.plan.manifest, number)
    except NotACache:
        own = None  # the part of the cache is not there, which is no fault
    except LogitstoreError as error:
        return [Problem(part=number, file=folder, what=str(error))]
    rows = read_record(tap.path, tap.plan, number).rows
    if own is not None and own.rows != rows:
        return [Problem(part=number, file=folder, what=f"it has {rows} rows, that of the cache {own.rows}")]
    problems: dict[tuple[str, str], None] = {}
    for first in range(0, rows, _BLOCK_ROWS):
        block = {name: array[first : first + _BLOCK_ROWS] for name, array in fields.items()}
        problems |= dict.fromkeys(feature_block_problems(block, tap.info.codec))
    return [Problem(part=number, file=f"{folder}/{layout.ROWS_FOLDER}/{field}", what=what) for field, what in problems]


def shared_problems(root: Path, manifest: Manifest | TapInfo) -> list[Problem]:
    """What is wrong with the shared files of a cache or of a tap."""
    problems = []
    for name, sealed in manifest.shared.items():
        try:
            path = layout.inside(root, name)
            what = _difference(path, sealed.bytes, sealed.xxh3_128)
        except LogitstoreError as error:
            what = str(error)
        if what:
            problems.append(Problem(part=None, file=name, what=what))
    # whatever lies in a shared folder is loaded with it
    folders = {Path(name).parent for name in manifest.shared} - {Path(layout.SHARED)}
    there = (path for folder in sorted(folders) for path in sorted((root / folder).glob("*")))
    for name in (path.relative_to(root).as_posix() for path in there):
        # a writer that was killed leaves a file beginning with a dot, which nobody loads
        if name not in manifest.shared and not Path(name).name.startswith("."):
            problems.append(Problem(part=None, file=name, what="a file that does not belong there"))
    return problems


def part_problems(root: Path, manifest: Manifest, number: int, shared: Any = None) -> list[Problem]:
    """What is wrong with one part: its record, its files, and if those are whole, what they say.

    Args:
        root: folder of the cache.
        manifest: of it.
        number: of the part.
        shared: what all parts share about their samples, if it is open already.
    """
    folder = f"{layout.PARTS}/{number:05d}"
    if problems := _file_problems(root, manifest, number):
        return problems
    try:
        part = Part(root, manifest, number, shared=shared)
        _ = part.fields  # an archive is decompressed here, where what is wrong with it becomes a problem
    except LogitstoreError as error:
        return [Problem(part=number, file=folder, what=str(error))]
    # rows are looked at only where the samples say rightly which they are
    broken = stored_samples(manifest).problems(part.samples, part.record, manifest)
    found = [(layout.SAMPLES_FILE, what) for what in broken] or list(_row_invariants(part, manifest))
    return [Problem(part=number, file=f"{folder}/{file}", what=what) for file, what in found]


def _file_problems(root: Path, plan: PartsPlan, number: int) -> list[Problem]:
    """What is wrong with the record and the files of a part of a cache or of a tap."""
    folder = f"{layout.PARTS}/{number:05d}"
    try:
        record = read_record(root, plan, number)
    except LogitstoreError as error:
        return [Problem(part=number, file=f"{folder}/{RECORD_NAME}", what=str(error))]
    problems = []
    for name, sealed in record.files.items():
        if what := _difference(root / folder / name, sealed.bytes, sealed.xxh3_128):
            problems.append(Problem(part=number, file=f"{folder}/{name}", what=what))
    there = {path.relative_to(root / folder).as_posix() for path in (root / folder).rglob("*") if not path.is_dir()}
    for name in sorted(there - record.files.keys() - {RECORD_NAME}):
        problems.append(Problem(part=number, file=f"{folder}/{name}", what="a file that does not belong there"))
    return problems


def _difference(path: Path, size: int, checksum: str) -> str:
    """How a file differs from its seal; empty when it does not."""
    if not path.is_file():
        return "missing"
    try:
        found = seal_of(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found.bytes != size:
        return f"{found.bytes} bytes instead of {size}"
    return "" if found.xxh3_128 == checksum else "its checksum does not match"


def _row_invariants(part: Part, manifest: Manifest) -> Iterator[tuple[str, str]]:
    gold_N = np.concatenate([part[index].sample.gold_N for index in range(len(part.samples))]).astype(np.int64)
    codec, remade = RowCodec(row=manifest.row), manifest.is_derived
    found: dict[tuple[str, str], None] = {}
    for first in range(0, part.record.rows, _BLOCK_ROWS):
        some = slice(first, first + _BLOCK_ROWS)
        block = {name: array[some] for name, array in part.fields.items()}
        found |= dict.fromkeys(row_block_problems(block, gold_N[some], codec, remade=remade))
    for field, what in found:
        yield f"{layout.ROWS_FOLDER}/{field}", what


def repair(root: Path, problems: list[Problem]) -> list[str]:
    """Drop what is broken: whole parts, shared files, or the manifest. The same dump command re-makes only that.

    Returns:
        what was dropped, relative to the cache.

    Raises:
        StorageError: the folder cannot be written.
    """
    dropped = sorted({problem.dropped for problem in problems})
    with storage_errors(root):
        for name in dropped:
            path = _ours(root, name)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.is_symlink() or path.exists():
                os.unlink(path)
    return dropped


def _ours(root: Path, name: str) -> Path:
    """`root / name`, or the first link on the way there: what lies behind a link is not the cache's to delete."""
    path = root
    for step in name.split("/"):
        path /= step
        if path.is_symlink():
            break
    return path
