"""`dump`: run the teacher once over the data, and keep what it says. Reads top to bottom.

settings -> samples, manifest -> teacher -> pilot -> cache.json, shared/ -> part by part: teacher -> sparsifier -> codec -> disk

The last two steps happen here, or in several processes beside this one, on this machine or on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from functools import partial

from logitstore.core.progress import NO_STOPWATCH, Progress, Step, Stopwatch, no_progress
from logitstore.dump.begin import Fit, begin, ensure_views, existing_manifest, prepare_parts, target_folder
from logitstore.dump.fit import fit_tail
from logitstore.dump.parts import ANSWERS, PartsWriter, Work, finished, missing_work, write_parts
from logitstore.dump.pilot_file import kept_pilot
from logitstore.dump.processes.child import Open
from logitstore.dump.processes.crews import crew_of, refuse_failed
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.pool import Pool, write_parts_beside
from logitstore.dump.processes.workers import Crew
from logitstore.dump.taps import (
    TapRequest,
    begin_taps,
    finish_taps,
    taps_are_begun,
    taps_wanted,
    widths_of,
)
from logitstore.dump.task import Prepared, load_teacher
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.tap import tap_folder
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import shared_problems
from logitstore.store.staged.others import share_of, tell_of_others
from logitstore.store.storage import Storage, open_storage, read_sealed


def dump(settings: DumpSettings, progress: Progress = no_progress, watch: Stopwatch = NO_STOPWATCH) -> Cache:
    """Write the cache that `settings` describe, or what is missing of it.

    Args:
        settings: the options of the command.
        progress: receives the steps.
        watch: measures the time of each stage.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher that cannot be loaded or gives NaN, or does not have the features asked for.
        CacheMismatch: `settings.out` is a cache of another plan, of a teacher with other weights, or of images that have
            changed, or a tap in it is stored in another way.
        StorageError: the disk is full or the folder cannot be written; committed parts stay.
        ProcessDied: processes ended by themselves; committed parts stay.
        NoShare: all parts that `settings.parts` names lie beyond the last one.
        PartsFailed: on a cluster several workers failed at some parts; all others are written.
    """
    layout.parse_ranges(settings.parts or "0")  # before the data are prepared, which takes time
    crew = crew_of(settings)
    with target_folder(settings.out, resume=settings.resume):
        prepared = prepare_parts(settings, progress)
        taps = taps_wanted(settings, prepared.config)
    out = open_storage(settings.out)
    is_begun = _is_begun(out, prepared.manifest, taps)
    parts = share_of(settings.parts, prepared.manifest.parts, progress)
    work = missing_work(out, parts, [ANSWERS, *taps.names])
    failed: dict[int, str] = {}
    if work or not is_begun:
        tell_of_others([out, *(out.within(tap_folder(name)) for name in taps.names)], work, progress)
        prepared.check()
        if crew is not None:
            failed = _write_beside(settings, prepared, taps, work, crew, progress)
        else:
            with closing(load_teacher(prepared, progress)) as teacher:
                write_parts(open_writer(settings, prepared, teacher, taps, progress, watch), work, "dump", progress)
    else:
        _refuse_other_weights(out, prepared, progress)
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    ensure_views(out, prepared.manifest.views)
    cache = finished(settings.out, parts)
    finish_taps(cache, taps.names, parts)
    refuse_failed(settings.out, failed)
    return cache


def planned(settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
    """Return what `dump` would write; no weights are loaded, and nothing is written.

    Raises:
        BadInput, ModelError: data, options or a teacher that cannot be used.
        CacheMismatch: `settings.out` is a cache of another plan.
    """
    prepared = prepare_parts(settings, progress)
    existing_manifest(open_storage(settings.out), prepared.manifest, but={"fingerprint"})
    return prepared


def open_writer(
    settings: DumpSettings,
    prepared: Prepared,
    teacher: Teacher,
    taps: TapRequest,
    progress: Progress = no_progress,
    watch: Stopwatch = NO_STOPWATCH,
) -> PartsWriter:
    """Begin or continue the cache and its taps; return what writes its parts."""
    widths_of(teacher, taps.names, taps.codec)  # what cannot be had is refused before anything is written
    progress(Step(stage="fingerprint", done=0, total=1))
    found = {"fingerprint": teacher.fingerprint(), "engine": teacher.engine()}
    teacher_info = prepared.manifest.teacher.model_copy(update=found)
    wanted = prepared.manifest.model_copy(update={"teacher": teacher_info})
    out = open_storage(settings.out)
    manifest = begin(out, wanted, prepared.files, lambda: _fit(settings, prepared, wanted, teacher, progress))
    prepared = prepared.continuing(Cache(settings.out))

    def pilot() -> Iterable[TeacherBatch]:
        return prepared.batches(prepared.pilot(settings.pilot_rows))

    begun = begin_taps(out, manifest, taps, teacher, pilot, progress)
    return PartsWriter(out, manifest, prepared, teacher, begun, watch)


def _fit(settings: DumpSettings, prepared: Prepared, wanted: Manifest, teacher: Teacher, progress: Progress) -> Fit:
    """Return what the rows share of their tails: what `plan` fitted and kept, or a fit on the pilot."""
    kept = kept_pilot(open_storage(settings.out), wanted)
    if kept is not None:
        return kept
    samples = prepared.pilot(settings.pilot_rows)
    return fit_tail(wanted, samples, prepared.batches, teacher, progress), wanted.tail.pilot_rows


def _is_begun(storage: Storage, wanted: Manifest, taps: TapRequest) -> bool:
    """Say whether the manifest, the shared files and the taps are there and whole.

    Raises:
        CacheMismatch: another plan is there.
    """
    manifest = existing_manifest(storage, wanted, but={"fingerprint"})
    return manifest is not None and not shared_problems(storage, manifest) and taps_are_begun(storage, manifest, taps)


def _refuse_other_weights(out: Storage, prepared: Prepared, progress: Progress) -> None:
    """Compare the teacher with that of a cache to which nothing is left to write, where they are called differently.

    Their plans are the same, and nothing but the weights tells two checkpoints of one shape apart. So they are loaded, unless
    the teacher has the name that the cache records.

    Raises:
        CacheMismatch: the weights are others.
    """
    there, asked = read_sealed(Manifest, out, MANIFEST_NAME).teacher, prepared.manifest.teacher
    if there.engine is not None or (there.name, there.revision) == (asked.name, asked.revision):
        return
    with closing(load_teacher(prepared, progress)) as teacher:
        progress(Step(stage="fingerprint", done=0, total=1))
        found = teacher.fingerprint()
    if found != there.fingerprint:
        raise CacheMismatch(
            f"--teacher {asked.name}: its weights are not those that {out} was made with ({there.name}). Give that teacher, or "
            "choose another --out."
        )


def load_again(settings: DumpSettings, progress: Progress) -> Open:
    """Load the teacher in another process than the one that began; see `logitstore.dump.processes.child.Opening`."""
    prepared = prepare_parts(settings)
    taps = taps_wanted(settings, prepared.config)
    return partial(open_writer, settings, prepared, load_teacher(prepared, progress), taps)


def _write_beside(
    settings: DumpSettings, prepared: Prepared, taps: TapRequest, work: Work, crew: Crew, progress: Progress
) -> dict[int, str]:
    """Have other processes begin what is not begun, and write the missing parts; return those that failed, with the reasons."""
    told = settings.model_copy(update={"dtype": prepared.manifest.teacher.dtype})
    with Pool(crew, partial(load_again, told), progress, len(work)) as pool:
        out = open_storage(settings.out)
        if not _is_begun(out, prepared.manifest, taps):
            pool.run([PartJob()])
            if not _is_begun(out, prepared.manifest, taps):
                raise BadInput(
                    f"{crew.rules.option}: what other processes write to {settings.out} is not seen here. Give a place that "
                    f"all of them see, or leave out {crew.rules.option}."
                )
        cache = Cache(settings.out)
        return write_parts_beside(
            pool, cache, work, lambda part: prepared.samples.rows_in(cache.manifest.span(part)), "dump", progress
        )
