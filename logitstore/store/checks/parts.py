"""Check one part of a cache or of a tap: its record, its files, and if those are whole, what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from logitstore.core.progress import amount
from logitstore.errors import LogitstoreError, StorageError
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import RECORD_NAME
from logitstore.format.sealed import FileSeal, seal_of
from logitstore.format.tap import tap_folder
from logitstore.store import layout
from logitstore.store.checks.claims import Claim, claim_of
from logitstore.store.checks.problem import Problem
from logitstore.store.checks.rows import feature_block_problems, row_block_problems
from logitstore.store.checks.shared import told
from logitstore.store.part import OpenFiles, Part, PartsPlan, read_record
from logitstore.store.samples import stored_samples
from logitstore.store.storage import Far, Storage
from logitstore.store.taps import Tap

_BLOCK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Job:
    """One part to check.

    Attributes:
        tap: name of its tap; None for a part of the cache.
        number: of the part.
        claim: what an earlier run found out about it, if it did; without one, a new claim is made if `claims` is true.
        claims: whether a part that is whole is to be claimed so.
    """

    tap: str | None
    number: int
    claim: Claim | None = None
    claims: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a job.

    Attributes:
        job: the job.
        problems: of the part.
        counts: rows and tokens by its record; zero where there is none.
        claim: that the part is whole, where a later run may rely on it.
        is_taken_over: an earlier run found the part whole, and nothing of it has changed since, so it was not read again.
    """

    job: Job
    problems: list[Problem]
    counts: tuple[int, int] = (0, 0)
    claim: Claim | None = None
    is_taken_over: bool = False


class PartChecker:
    """Checks parts of one cache and of its taps, one at a time."""

    def __init__(self, opened: Callable[[], Storage], manifest: Manifest, reads_samples: bool) -> None:
        """Open what all parts share.

        Args:
            opened: gives the storage of the cache.
            manifest: of it.
            reads_samples: False where what all parts share about their samples is broken: only their files are looked at.
        """
        self._storage, self._manifest, self._reads_samples = opened(), manifest, reads_samples
        self._taps: dict[str, Tap] = {}

    @cached_property
    def _shared(self) -> Any:
        return stored_samples(self._manifest).open_shared(self._storage, self._manifest)

    def __call__(self, job: Job) -> Found:
        """Check a part, unless an earlier run found it whole and it has not changed.

        Raises:
            StorageError, OSError: the system refuses to read a file.
        """
        # before anything is read, so that what changes meanwhile makes it another claim
        claim = claim_of(self._storage, job.tap, job.number) if job.claims or job.claim else None
        counts = self._counts(job)
        if job.claim is not None and claim is not None and job.claim.holds(claim):
            return Found(job=job, problems=[], counts=counts, claim=job.claim, is_taken_over=True)
        problems = self._tap_problems(job.tap, job.number) if job.tap else self._part_problems(job.number)
        self._forget(job)
        return Found(job=job, problems=problems, counts=counts, claim=None if problems else claim)

    def _forget(self, job: Job) -> None:
        """Keep no more than one part of a far cache here: it may be larger than the disk."""
        for storage in (self._storage, *(tap.storage for name, tap in self._taps.items() if name == job.tap)):
            if isinstance(storage, Far):
                storage.forget(job.number)

    def _counts(self, job: Job) -> tuple[int, int]:
        if job.tap is not None:
            return 0, 0
        try:
            record = read_record(self._storage, self._manifest, job.number)
        except LogitstoreError:
            return 0, 0
        return record.rows, record.tokens

    def _part_problems(self, number: int) -> list[Problem]:
        manifest, folder = self._manifest, layout.part_name(number)
        if number >= manifest.parts:
            return [Problem(part=number, file=folder, what="a part that the plan does not have")]
        problems = _file_problems(self._storage, manifest, number)
        if problems or not self._reads_samples:
            return problems
        try:
            files = OpenFiles(self._storage, manifest, self._shared)
            samples = files.samples(number)
            # rows are looked at only where the samples say rightly which they are
            broken = stored_samples(manifest).problems(samples, read_record(self._storage, manifest, number), manifest)
            found = [(layout.SAMPLES_FILE, what) for what in broken]
            if not found:
                part = Part(files, number)
                _ = part.fields  # an archive is decompressed here, where what is wrong with it becomes a problem
                found = list(_row_invariants(part, manifest))
        except LogitstoreError as error:
            return [Problem(part=number, file=folder, what=told(error))]
        return [Problem(part=number, file=f"{folder}/{file}", what=what) for file, what in found]

    def _tap_problems(self, name: str, number: int) -> list[Problem]:
        if name not in self._taps:
            self._taps[name] = Tap(self._storage, self._manifest, name)
        problems = _of_tap(self._storage, self._taps[name], number)
        return [replace(problem, file=f"{tap_folder(name)}/{problem.file}", tap=name) for problem in problems]


def _of_tap(storage: Storage, tap: Tap, number: int) -> list[Problem]:
    """Return the problems of one part of a tap; their files are relative to the tap."""
    folder = layout.part_name(number)
    if number >= tap.plan.parts:
        return [Problem(part=number, file=folder, what="a part that the plan does not have")]
    if file_problems := _file_problems(tap.storage, tap.plan, number):
        return file_problems
    try:
        fields = tap.part(number)
    except LogitstoreError as error:
        return [Problem(part=number, file=folder, what=told(error))]
    try:
        cache_record = read_record(storage, tap.plan.manifest, number)
    except StorageError:
        raise
    except LogitstoreError:
        cache_record = None  # the part of the cache is missing or broken, which is not a problem of the tap
    rows = read_record(tap.storage, tap.plan, number).rows
    expected = rows if cache_record is None else tap.info.vectors_in(cache_record)
    if expected != rows:
        return [Problem(part=number, file=folder, what=f"it has {amount(rows, 'row')}, that of the cache {expected}")]
    problems: dict[tuple[str, str], None] = {}
    for first in range(0, rows, _BLOCK_ROWS):
        block = {name: array[first : first + _BLOCK_ROWS] for name, array in fields.items()}
        problems |= dict.fromkeys(feature_block_problems(block, tap.info.codec))
    return [Problem(part=number, file=f"{folder}/{layout.ROWS_FOLDER}/{field}", what=what) for field, what in problems]


def _file_problems(storage: Storage, plan: PartsPlan, number: int) -> list[Problem]:
    """Return the problems of the record and the files of a part of a cache or of a tap."""
    folder = layout.part_name(number)
    try:
        record = read_record(storage, plan, number)
    except LogitstoreError as error:
        return [Problem(part=number, file=f"{folder}/{RECORD_NAME}", what=told(error))]
    problems = []
    for name, sealed in record.files.items():
        if what := difference(storage, f"{folder}/{name}", sealed):
            problems.append(Problem(part=number, file=f"{folder}/{name}", what=what))
    there = {name.removeprefix(f"{folder}/") for name in storage.files(folder)}
    for name in sorted(there - record.files.keys() - {RECORD_NAME}):
        problems.append(Problem(part=number, file=f"{folder}/{name}", what="a file that does not belong there"))
    return problems


def difference(storage: Storage, name: str, sealed: FileSeal) -> str:
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
    gold_N = part.samples.gold()
    if len(part.record.chosen or ()) != (len(manifest.merged_from or ()) if manifest.chosen_by else 0):
        yield RECORD_NAME, "it does not count the rows of each of the caches that they were chosen among"
    codec, remade = RowCodec(row=manifest.row), manifest.is_derived
    problems: dict[tuple[str, str], None] = {}
    for first in range(0, part.record.rows, _BLOCK_ROWS):
        some = slice(first, first + _BLOCK_ROWS)
        block = {name: array[some] for name, array in part.fields.items()}
        problems |= dict.fromkeys(
            row_block_problems(block, gold_N[some], codec, remade=remade, knows_gold=manifest.knows_gold)
        )
    for field, what in problems:
        yield f"{layout.ROWS_FOLDER}/{field}", what
