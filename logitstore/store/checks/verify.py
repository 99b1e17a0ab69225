"""`verify` checks every checksum and invariant of a cache; `repair` drops broken files, so that `dump` makes them again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.errors import CacheMismatch, LogitstoreError, NotACache, storage_errors
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME
from logitstore.format.sealed import FileSeal, is_sealed, seal_of
from logitstore.format.tap import TAP_NAME, TAPS, TapInfo, tap_folder
from logitstore.format.tap_names import PATTERN
from logitstore.store import layout
from logitstore.store.checks.rows import feature_block_problems, row_block_problems
from logitstore.store.checks.shared import contents_problems, told, unlisted
from logitstore.store.part import OpenFiles, Part, PartsPlan, read_record
from logitstore.store.samples import stored_samples
from logitstore.store.storage import Storage, open_storage, read_sealed, read_small
from logitstore.store.taps import Tap, tap_folders

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One problem of a cache.

    Attributes:
        part: number of the part; None for a file that all parts share.
        file: path of the file, relative to the cache.
        what: description of the problem.
        tap: name of the tap; None for a file outside all taps.
    """

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
        """Path that `repair` drops because of the problem, relative to the cache."""
        if self.part is None:
            return self.file
        root = "" if self.tap is None else f"{tap_folder(self.tap)}/"
        return f"{root}{layout.PARTS}/{self.part:05d}"


def verify(place: Place, progress: Progress = no_progress) -> list[Problem]:
    """Return all problems of a cache, in order; none for a sound cache. Missing parts are not problems.

    Raises:
        NotACache: the place holds no cache at all.
        StorageError, OSError: the system refuses to read a file, which says nothing about what is in it.
    """
    storage = open_storage(place)
    try:
        manifest = read_sealed(Manifest, storage, MANIFEST_NAME)
    except LogitstoreError as error:
        if not storage.names(layout.PARTS) or _is_sealed_file(storage, MANIFEST_NAME):
            raise
        return [Problem(part=None, file=MANIFEST_NAME, what=told(error))]
    problems = shared_problems(storage, manifest)
    if not problems:
        problems = [Problem(part=None, file=file, what=what) for file, what in contents_problems(storage, manifest)]
    samples_are_readable, shared, unreadable = _shared_samples(storage, manifest, problems)
    problems += unreadable
    numbers = layout.part_numbers(storage.names(layout.PARTS))
    for done, number in enumerate(numbers, 1):
        if number < manifest.parts:
            problems += (
                part_problems(storage, manifest, number, shared)
                if samples_are_readable
                else _file_problems(storage, manifest, number)
            )
        else:
            folder = f"{layout.PARTS}/{number:05d}"
            problems.append(Problem(part=number, file=folder, what="a part that the plan does not have"))
        progress(Step(stage="verify", done=done, total=len(numbers), part=number))
    problems = problems or _count_problems(storage, manifest, numbers)
    for name in tap_folders(storage):
        problems += tap_problems(storage, manifest, name, progress)
    return problems + _taps_without_record(storage)


def _taps_without_record(storage: Storage) -> list[Problem]:
    """Return a problem for each folder below `taps/` that has parts and no record, so that nobody can read them."""
    known = tap_folders(storage)
    folders = [tap_folder(name) for name in storage.names(TAPS) if re.match(PATTERN, name) and name not in known]
    return [
        Problem(part=None, file=folder, what=f"it has parts and no {TAP_NAME}", tap=folder.rpartition("/")[2])
        for folder in folders
        if layout.part_numbers(storage.names(f"{folder}/{layout.PARTS}"))
    ]


def _is_sealed_file(storage: Storage, name: str) -> bool:
    return storage.size(name) is not None and is_sealed(read_small(storage, name))


def _shared_samples(storage: Storage, manifest: Manifest, problems: list[Problem]) -> tuple[bool, Any, list[Problem]]:
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
        shared = stored.open_shared(storage, manifest)
    except LogitstoreError as error:
        return False, None, [] if is_known else [Problem(part=None, file=file, what=told(error))]
    return not is_known, shared, []


def _count_problems(storage: Storage, manifest: Manifest, numbers: list[int]) -> list[Problem]:
    """Return a problem if the cache is complete and the counts of rows or tokens of its parts differ from the plan."""
    if len(numbers) < manifest.parts:
        return []
    records = [read_record(storage, manifest, number) for number in numbers]
    counted = (sum(record.rows for record in records), sum(record.tokens for record in records))
    named = (manifest.rows * manifest.views, manifest.tokens * manifest.views)
    if counted == named:
        return []
    what = f"it names {named[0]} rows and {named[1]} tokens; the parts hold {counted[0]} and {counted[1]}"
    return [Problem(part=None, file=MANIFEST_NAME, what=what)]


def tap_problems(storage: Storage, manifest: Manifest, name: str, progress: Progress = no_progress) -> list[Problem]:
    """Return the problems of one tap: of its plan, its shared file and its parts."""
    folder = tap_folder(name)
    try:
        tap = Tap(storage, manifest, name)
    except LogitstoreError as error:
        # a tap of another cache is dropped as a whole; a broken plan is written again with the same contents
        file = folder if isinstance(error, CacheMismatch) else f"{folder}/{TAP_NAME}"
        return [Problem(part=None, file=file, what=told(error), tap=name)]
    problems = shared_problems(tap.storage, tap.info)
    if not problems:
        try:
            _ = tap.codec
        except LogitstoreError as error:
            problems = [Problem(part=None, file=file, what=told(error)) for file in tap.info.shared]
    numbers = layout.part_numbers(tap.storage.names(layout.PARTS))
    for done, number in enumerate(numbers, 1):
        problems += _tap_part_problems(storage, tap, number)
        progress(Step(stage=f"verify {name}", done=done, total=len(numbers), part=number))
    return [replace(problem, file=f"{folder}/{problem.file}", tap=name) for problem in problems]


def _tap_part_problems(storage: Storage, tap: Tap, number: int) -> list[Problem]:
    """Return the problems of one part of a tap; their files are relative to the tap."""
    folder = f"{layout.PARTS}/{number:05d}"
    if number >= tap.plan.parts:
        return [Problem(part=number, file=folder, what="a part that the plan does not have")]
    if file_problems := _file_problems(tap.storage, tap.plan, number):
        return file_problems
    try:
        fields = tap.part(number)
        cache_record = read_record(storage, tap.plan.manifest, number)
    except NotACache:
        cache_record = None  # the part of the cache is missing, which is not a problem of the tap
    except LogitstoreError as error:
        return [Problem(part=number, file=folder, what=told(error))]
    rows = read_record(tap.storage, tap.plan, number).rows
    if cache_record is not None and cache_record.rows != rows:
        return [Problem(part=number, file=folder, what=f"it has {rows} rows, that of the cache {cache_record.rows}")]
    problems: dict[tuple[str, str], None] = {}
    for first in range(0, rows, _BLOCK_ROWS):
        block = {name: array[first : first + _BLOCK_ROWS] for name, array in fields.items()}
        problems |= dict.fromkeys(feature_block_problems(block, tap.info.codec))
    return [Problem(part=number, file=f"{folder}/{layout.ROWS_FOLDER}/{field}", what=what) for field, what in problems]


def shared_problems(storage: Storage, manifest: Manifest | TapInfo) -> list[Problem]:
    """Return the problems of the shared files of a cache or of a tap."""
    problems = []
    for name, sealed in manifest.shared.items():
        if what := _difference(storage, name, sealed):
            problems.append(Problem(part=None, file=name, what=what))
    # every file in a shared folder is loaded with the folder, so unlisted files are problems
    for folder in sorted({PurePosixPath(name).parent.as_posix() for name in manifest.shared} - {layout.SHARED}):
        for name in unlisted(storage, manifest.shared, folder):
            problems.append(Problem(part=None, file=name, what="a file that does not belong there"))
    return problems


def part_problems(storage: Storage, manifest: Manifest, number: int, shared: Any = None) -> list[Problem]:
    """What is wrong with one part: its record, its files, and if those are whole, what they say.

    Args:
        storage: that of the cache.
        manifest: of it.
        number: of the part.
        shared: what all parts share about their samples, if it is open already.
    """
    folder = f"{layout.PARTS}/{number:05d}"
    if problems := _file_problems(storage, manifest, number):
        return problems
    try:
        files = OpenFiles(storage, manifest, shared)
        samples = files.samples(number)
        # rows are looked at only where the samples say rightly which they are
        broken = stored_samples(manifest).problems(samples, read_record(storage, manifest, number), manifest)
        found = [(layout.SAMPLES_FILE, what) for what in broken]
        if not found:
            part = Part(files, number)
            _ = part.fields  # an archive is decompressed here, where what is wrong with it becomes a problem
            found = list(_row_invariants(part, manifest))
    except LogitstoreError as error:
        return [Problem(part=number, file=folder, what=told(error))]
    return [Problem(part=number, file=f"{folder}/{file}", what=what) for file, what in found]


def _file_problems(storage: Storage, plan: PartsPlan, number: int) -> list[Problem]:
    """Return the problems of the record and the files of a part of a cache or of a tap."""
    folder = f"{layout.PARTS}/{number:05d}"
    try:
        record = read_record(storage, plan, number)
    except LogitstoreError as error:
        return [Problem(part=number, file=f"{folder}/{RECORD_NAME}", what=told(error))]
    problems = []
    for name, sealed in record.files.items():
        if what := _difference(storage, f"{folder}/{name}", sealed):
            problems.append(Problem(part=number, file=f"{folder}/{name}", what=what))
    there = {name.removeprefix(f"{folder}/") for name in storage.files(folder)}
    for name in sorted(there - record.files.keys() - {RECORD_NAME}):
        problems.append(Problem(part=number, file=f"{folder}/{name}", what="a file that does not belong there"))
    return problems


def _difference(storage: Storage, name: str, sealed: FileSeal) -> str:
    """Return the difference between a file and its seal in words; empty if there is none.

    Only a file of the right size is read.
    """
    try:
        path, size = storage.local(name), storage.size(name)
    except LogitstoreError as error:
        return told(error)
    if size is None:
        return "missing"
    if size != sealed.bytes:
        return f"{size} bytes instead of {sealed.bytes}"
    return "" if seal_of(path).xxh3_128 == sealed.xxh3_128 else "its checksum does not match"


def _row_invariants(part: Part, manifest: Manifest) -> Iterator[tuple[str, str]]:
    gold_N = np.concatenate([part.samples.sample(index).gold_N for index in range(len(part.samples))]).astype(np.int64)
    codec, remade = RowCodec(row=manifest.row), manifest.is_derived
    problems: dict[tuple[str, str], None] = {}
    for first in range(0, part.record.rows, _BLOCK_ROWS):
        some = slice(first, first + _BLOCK_ROWS)
        block = {name: array[some] for name, array in part.fields.items()}
        problems |= dict.fromkeys(row_block_problems(block, gold_N[some], codec, remade=remade))
    for field, what in problems:
        yield f"{layout.ROWS_FOLDER}/{field}", what


def repair(place: Place, problems: list[Problem]) -> list[str]:
    """Drop the broken pieces: whole parts, shared files, or the manifest. The same dump command makes only these again.

    Returns:
        the dropped paths, relative to the cache.

    Raises:
        StorageError: the folder cannot be written.
    """
    storage = open_storage(place)
    dropped = sorted({problem.dropped for problem in problems})
    with storage_errors(storage):
        for name in dropped:
            storage.remove(name)
    return dropped
