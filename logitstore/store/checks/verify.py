"""`verify` checks every checksum and invariant of a cache; `repair` drops broken files, so that `dump` makes them again."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath

from logitstore.core.place import Place, split_scheme
from logitstore.core.progress import Progress, amount, no_progress
from logitstore.errors import BadInput, CacheMismatch, LogitstoreError, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.sealed import is_sealed
from logitstore.format.tap import TAP_NAME, TAPS, TapInfo, tap_folder
from logitstore.format.tap_names import PATTERN
from logitstore.store import layout
from logitstore.store.checks.journal import Journal
from logitstore.store.checks.parts import Job, PartChecker, difference
from logitstore.store.checks.problem import Problem
from logitstore.store.checks.processes import Checkers
from logitstore.store.checks.run import CheckedParts, Extent
from logitstore.store.checks.shared import contents_problems, told, unlisted
from logitstore.store.samples import stored_samples
from logitstore.store.storage import Far, Storage, open_storage, read_sealed, read_small
from logitstore.store.taps import Tap, tap_folders

WHOLE = Extent()


@dataclass(kw_only=True)
class Verified:
    """What came of a check.

    Attributes:
        problems: all problems that were found, those of the parts in the order of the parts.
        parts: count of the parts of the cache that were checked, now or by the earlier run.
        of: count of the parts that the cache has.
        earlier: count of the parts, with those of taps, that an earlier run had found whole.
        began: when that run began, in seconds since 1970.
    """

    problems: list[Problem] = field(default_factory=list)
    parts: int = 0
    of: int = 0
    earlier: int = 0
    began: float = 0.0


def verify(place: Place, progress: Progress = no_progress) -> list[Problem]:
    """Return all problems of a cache, in order; none for a sound cache. Missing parts are not problems.

    Raises:
        NotACache: the place holds no cache at all.
        StorageError, OSError: the system refuses to read a file, which says nothing about what is in it.
    """
    return verified(place, WHOLE, progress).problems


def verified(place: Place, extent: Extent, progress: Progress = no_progress) -> Verified:
    """Check a cache, or a share of its parts with all that they have in common.

    Raises:
        BadInput: several processes are to check a cache in another storage.
        NotACache, StorageError, OSError: see `verify`.
    """
    if extent.workers > 1 and split_scheme(place)[0]:
        raise BadInput(f"--workers {extent.workers}: one process checks a cache in another storage. Leave it out.")
    storage = open_storage(place)
    if not isinstance(storage, Far):
        return _verified(storage, partial(open_storage, place), extent, progress)
    with storage.anew() as fresh:
        return _verified(fresh, lambda: fresh, extent, progress)


def _verified(storage: Storage, opened: Callable[[], Storage], extent: Extent, progress: Progress) -> Verified:
    try:
        manifest = read_sealed(Manifest, storage, MANIFEST_NAME)
    except LogitstoreError as error:
        if not storage.names(layout.PARTS) or _is_sealed_file(storage, MANIFEST_NAME):
            raise
        return Verified(problems=[Problem(part=None, file=MANIFEST_NAME, what=told(error))])
    problems = shared_problems(storage, manifest)
    if not problems:
        problems = [Problem(part=None, file=file, what=what) for file, what in contents_problems(storage, manifest)]
    samples_are_readable, unreadable = _shared_samples(storage, manifest, problems)
    problems += unreadable
    taps = {name: _tap_problems(storage, manifest, name) for name in tap_folders(storage)}
    numbers = layout.part_numbers(storage.names(layout.PARTS))
    chosen = extent.of(numbers)
    jobs = [Job(tap=None, number=number) for number in chosen]
    for name, (is_readable, _) in taps.items():
        names = storage.names(f"{tap_folder(name)}/{layout.PARTS}") if is_readable else []
        wanted = layout.part_numbers(names)
        if len(chosen) < len(numbers):
            wanted = sorted({*chosen} & {*wanted})
        jobs += [Job(tap=name, number=number) for number in wanted]
    journal = Journal(storage, manifest, len(taps), resume=extent.resume) if extent.journal else None
    parts = CheckedParts(jobs, journal)
    check = partial(PartChecker, opened, manifest, samples_are_readable)
    with Checkers(check, extent.workers, partial(_called, storage)) as checkers:
        parts.run(checkers, progress, has_claims=samples_are_readable)
    problems += parts.problems_of(None)
    if not problems and len(chosen) == manifest.parts:
        problems = _count_problems(manifest, parts.counts)
    for name, (_, of_the_tap) in taps.items():
        problems += of_the_tap + parts.problems_of(name)
    problems += _taps_without_record(storage)
    parts.end(is_whole=len(chosen) == len(numbers))
    return Verified(problems=problems, parts=len(chosen), of=len(numbers), earlier=parts.earlier, began=parts.began)


def _called(storage: Storage, job: Job) -> str:
    return f"{storage}: part {job.number:05d}" + ("" if job.tap is None else f" of {job.tap}")


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


def _shared_samples(storage: Storage, manifest: Manifest, problems: list[Problem]) -> tuple[bool, list[Problem]]:
    """Open what all parts share about their samples.

    Return whether parts can be read, and what is wrong with it. If something is wrong, parts cannot be read, which is no fault
    of theirs: only their files are looked at.
    """
    stored = stored_samples(manifest)
    file = next(
        (name for name in manifest.shared if name.startswith(f"{layout.SHARED}/{stored.shared}-")), MANIFEST_NAME
    )
    is_known = any(problem.file == file for problem in problems)
    try:
        stored.open_shared(storage, manifest)
    except LogitstoreError as error:
        return False, [] if is_known else [Problem(part=None, file=file, what=told(error))]
    return not is_known, []


def _count_problems(manifest: Manifest, counted: tuple[int, int]) -> list[Problem]:
    """Return a problem if the counts of rows or tokens of the parts of a complete cache differ from the plan."""
    named = (manifest.rows * manifest.views, manifest.tokens * manifest.views)
    if counted == named:
        return []
    what = f"it names {amount(named[0], 'row')} and {amount(named[1], 'token')}; the parts hold {counted[0]} and {counted[1]}"
    return [Problem(part=None, file=MANIFEST_NAME, what=what)]


def _tap_problems(storage: Storage, manifest: Manifest, name: str) -> tuple[bool, list[Problem]]:
    """Return whether the parts of a tap can be read, and the problems of its plan and its shared file."""
    folder = tap_folder(name)
    try:
        tap = Tap(storage, manifest, name)
    except LogitstoreError as error:
        # a tap of another cache is dropped as a whole; a broken plan is written again with the same contents
        file = folder if isinstance(error, CacheMismatch) else f"{folder}/{TAP_NAME}"
        return False, [Problem(part=None, file=file, what=told(error), tap=name)]
    problems = shared_problems(tap.storage, tap.info)
    if not problems:
        try:
            _ = tap.codec
        except LogitstoreError as error:
            problems = [Problem(part=None, file=file, what=told(error)) for file in tap.info.shared]
    return True, [replace(problem, file=f"{folder}/{problem.file}", tap=name) for problem in problems]


def shared_problems(storage: Storage, manifest: Manifest | TapInfo) -> list[Problem]:
    """Return the problems of the shared files of a cache or of a tap."""
    problems = []
    for name, sealed in manifest.shared.items():
        if what := difference(storage, name, sealed):
            problems.append(Problem(part=None, file=name, what=what))
    # every file in a shared folder is loaded with the folder, so unlisted files are problems
    for folder in sorted({PurePosixPath(name).parent.as_posix() for name in manifest.shared} - {layout.SHARED}):
        for name in unlisted(storage, manifest.shared, folder):
            problems.append(Problem(part=None, file=name, what="a file that does not belong there"))
    return problems


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
