"""`add`: write features of the teacher, or more views of the images, for a cache that exists already.

cache -> its teacher -> taps (tap.json, shared/) -> part by part: samples of the cache -> teacher -> codec -> staged part

For features nothing but the folder `taps/` is written. Views are parts of the cache itself, written as in a dump.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from transformers import PretrainedConfig

from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import ModelRef
from logitstore.dump.begin import ensure_views
from logitstore.dump.parts import ANSWERS, PartsWriter, Work, finished, missing_work, write_parts
from logitstore.dump.processes.child import Open, Opening
from logitstore.dump.processes.crews import crew_of, refuse_failed
from logitstore.dump.processes.messages import PartJob
from logitstore.dump.processes.pool import Pool, write_parts_beside
from logitstore.dump.taps import TapRequest, begin_taps, finish_taps, taps_are_begun
from logitstore.dump.task import AskAgain, Prepared, dump_task, load_teacher
from logitstore.dump.teachers import gives_of, open_source, scheme_of
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.manifest import Manifest
from logitstore.format.needs import Gives, check_features
from logitstore.format.tap import tap_folder
from logitstore.models.load import describe, load_config
from logitstore.settings.dump import AddSettings
from logitstore.settings.tasks import refuse_set
from logitstore.settings.trust import refuse_unnamed
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.part import check_seals, read_record
from logitstore.store.staged.others import tell_of_others
from logitstore.store.storage import Far


def add(settings: AddSettings, progress: Progress = no_progress) -> Cache:
    """Write the taps or the views that `settings` name, or what is missing of them.

    Taps are written for the parts that the cache has.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read, or what the teacher reads of it is not what its seal says.
        BadInput: the plan names no features or views, layers that the teacher does not have, or parts that do not exist.
        ModelError: the teacher cannot be loaded, or does not have the requested features.
        CacheMismatch: the teacher is another one, or an existing tap is stored in another way.
        StorageError: the disk is full or the folder cannot be written; committed parts stay.
        ProcessDied: processes ended by themselves; committed parts stay.
        PartsFailed: on a cluster several workers failed at some parts; all others are written.
    """
    refuse_unnamed(settings, "teacher")
    cache = Cache(settings.cache)
    cache.check_sizes()
    if cache.manifest.merged_from is not None:
        raise BadInput(
            f"{settings.cache}: it is the mean of several teachers. "
            + (
                "Features belong to one: add them to a cache of that one."
                if settings.views is None
                else "Add the views to the caches that it was made from, and give the merge command again."
            )
        )
    if cache.manifest.imported is not None:
        raise BadInput(
            f"{settings.cache}: it was imported, and the weights of its teacher are not known. Dump the teacher for "
            "its features."
        )
    dump_task(cache.manifest.task).check_add(settings, cache)
    return _add_taps(settings, cache, progress) if settings.views is None else _add_views(settings, cache, progress)


def _add_taps(settings: AddSettings, cache: Cache, progress: Progress) -> Cache:
    """Write the features that `settings` name, or what is missing of them."""
    task = dump_task(cache.manifest.task)
    name = settings.teacher or cache.manifest.teacher.name
    if scheme_of(name) is not None:
        _check_features(settings, gives_of(name, trust_remote_code=settings.trust_remote_code), name)
    names = task.taps(lambda: _config(name, settings.trust_remote_code), settings.hidden, settings.qkv)
    taps = TapRequest(names=names, codec=settings.tap_codec)
    is_begun = taps_are_begun(cache.storage, cache.manifest, taps)
    parts = _committed(settings, cache)
    work = missing_work(cache.storage, parts, names)
    tell_of_others([cache.storage.within(tap_folder(name)) for name in names], work, progress)
    failed: dict[int, str] = {}
    if work or not is_begun:
        _check_samples(cache, work if is_begun else cache.part_numbers)
        rows = dict(zip(cache.part_numbers, cache.index.facts()["rows"].tolist(), strict=True))
        opening = partial(_load_for_taps, settings, taps)
        failed = _write(settings, opening, work, is_begun, rows.__getitem__, "add", progress)
    cache = Cache(settings.cache)
    finish_taps(cache, names, parts)
    refuse_failed(settings.cache, failed)
    return cache


def _load_for_taps(settings: AddSettings, taps: TapRequest, progress: Progress) -> Open:
    """Load the teacher; return what begins the taps and writes their parts."""
    cache = Cache(settings.cache)
    prepared, teacher = _teacher_again(settings, cache, None, progress)

    def pilot() -> Iterable[TeacherBatch]:
        # of several views one is looked at, as in a dump
        views = cache.whole_views
        count, rows = (cache.manifest.samples, cache.manifest.rows) if views else (len(cache), cache.rows)
        first = cache.first_sample_of(views[0]) if views else 0
        return prepared.batches([cache[first + index].sample for index in spread(count, rows, settings.pilot_rows)])

    def open_writer(progress: Progress) -> PartsWriter:
        with ExitStack() as failed:
            failed.callback(teacher.close)
            begun = begin_taps(cache.storage, cache.manifest, taps, teacher, pilot, progress)
            failed.pop_all()
        return PartsWriter(cache.storage, cache.manifest, prepared, teacher, begun)

    return open_writer


def _add_views(settings: AddSettings, cache: Cache, progress: Progress) -> Cache:
    """Write the views that `settings` name, or what is missing of them, as parts of the cache itself."""
    manifest = cache.manifest
    views = _views_wanted(settings, manifest.views)
    parts = _parts_of_views(settings, views, manifest.parts_of_view)
    work = missing_work(cache.storage, parts, [ANSWERS])
    tell_of_others([cache.storage], work, progress)
    failed: dict[int, str] = {}
    if work:
        _check_samples(cache, [])  # the parts of new views hold no images, all of which are shared
        is_begun = manifest.views > views[-1]
        opening = partial(_load_for_views, settings, views[-1] + 1)
        failed = _write(settings, opening, work, is_begun, lambda part: _rows_in(manifest, part), "dump", progress)
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    ensure_views(cache.storage, views[-1] + 1)
    made = finished(settings.cache, parts)
    refuse_failed(settings.cache, failed)
    return made


def _check_samples(cache: Cache, parts: Iterable[int]) -> None:
    """Compare what the teacher reads of a cache with its seals. Its answers about other samples would outlive a repair.

    Raises:
        CacheDamaged: a file is missing, or is not what its seal says.
        StorageError: the system refuses to read one.
    """
    if isinstance(cache.storage, Far):
        return  # compared when they are fetched
    check_seals(cache.storage, "", cache.manifest.shared)
    for number in parts:
        files = read_record(cache.storage, cache.manifest, number).files
        of_samples = {name: seal for name, seal in files.items() if name == layout.SAMPLES_FILE}
        check_seals(cache.storage, f"{layout.part_name(number)}/", of_samples)


def _load_for_views(settings: AddSettings, views: int, progress: Progress) -> Open:
    """Load the teacher; return what makes the plan one of so many views, and writes their parts."""
    cache = Cache(settings.cache)
    prepared, teacher = _teacher_again(settings, cache, max(views, cache.manifest.views), progress)

    def open_writer(_progress: Progress) -> PartsWriter:
        return PartsWriter(cache.storage, ensure_views(cache.storage, views), prepared, teacher)

    return open_writer


def _rows_in(manifest: Manifest, part: int) -> int:
    """Return how many rows a part of any view has, if all samples have as many."""
    return manifest.rows * manifest.samples_in(part) // manifest.samples


def _write(
    settings: AddSettings,
    opening: Opening,
    work: Work,
    is_begun: bool,
    rows_in: Callable[[int], int],
    stage: str,
    progress: Progress,
) -> dict[int, str]:
    """Begin what is not begun, and write the missing parts, here or in several processes; return those that failed there."""
    crew = crew_of(settings)
    if crew is None:
        with closing(opening(progress)(progress)) as writer:
            write_parts(writer, work, stage, progress)
        return {}
    with Pool(crew, opening, progress, len(work)) as pool:
        if not is_begun:
            pool.run([PartJob()])
        return write_parts_beside(pool, Cache(settings.cache), work, rows_in, stage, progress)


def _views_wanted(settings: AddSettings, there: int) -> range:
    """Return the numbers of the views, from a text such as `10-19`."""
    if settings.hidden is not None or settings.qkv is not None or settings.tap_codec is not None:
        raise BadInput("--views with --hidden or --qkv: add them one after the other.")
    refuse_set(settings, ("pilot_rows",), "nothing is fitted for more views")
    first, _, last = str(settings.views).replace(" ", "").partition("-")
    views = range(int(first), int(last or first) + 1)
    if not views:
        raise BadInput(f"--views {settings.views}: write a number or a range, such as {there}-{there + 4}.")
    if views[0] > there:
        raise BadInput(
            f"--views {settings.views}: {settings.cache} has views 0 to {there - 1}. Begin with {there} or less."
        )
    return views


def _parts_of_views(settings: AddSettings, views: range, parts_of_view: int) -> list[int]:
    """Return the parts of some views, as far as `--parts` names them."""
    wanted = list(range(views[0] * parts_of_view, (views[-1] + 1) * parts_of_view))
    if settings.parts is None:
        return wanted
    chosen = set(layout.parse_share(settings.parts, wanted[-1] + 1)[0])
    if outside := sorted(chosen - set(wanted)):
        raise BadInput(f"--parts {settings.parts}: part {outside[0]} is not of the views {settings.views}.")
    return [part for part in wanted if part in chosen]


def _teacher_again(
    settings: AddSettings, cache: Cache, views: int | None, progress: Progress
) -> tuple[Prepared, Teacher]:
    """Load the teacher of a cache again.

    Raises:
        BadInput: it does not give the features asked for.
        CacheMismatch: its weights or its configuration are not those that the cache was made with.
    """
    again = AskAgain(
        teacher=settings.teacher,
        images=settings.images,
        views=views,
        placing=settings,
        workers=settings.workers,
        trust_remote_code=settings.trust_remote_code,
    )
    prepared = dump_task(cache.manifest.task).reopen(cache, again, progress)
    _check_features(settings, prepared.gives, settings.teacher or cache.manifest.teacher.name)
    changed = _changed(cache.manifest.teacher.config, describe(prepared.config)[1])
    if changed is not None:
        entry, before, now = changed
        raise CacheMismatch(
            f"--teacher {settings.teacher or cache.manifest.teacher.name}: its configuration has {entry} = {now!s:.80}, and "
            f"{settings.cache} was made with {before!s:.80}, so it would answer as another model. Bring its configuration back."
        )
    teacher = load_teacher(prepared, progress)
    progress(Step(stage="fingerprint", done=0, total=1))
    if teacher.fingerprint() != cache.manifest.teacher.fingerprint:
        name = cache.manifest.teacher.name
        raise CacheMismatch(
            f"--teacher {settings.teacher or name}: its weights are not those that {settings.cache} was made with ({name}). "
            "Give that teacher."
        )
    return prepared, teacher


def _changed(before: dict[str, Any], now: dict[str, Any], inside: str = "") -> tuple[str, Any, Any] | None:
    """Return the name and both values of the first entry that two configurations have and that differs.

    Another version of transformers may have more entries, or fewer.
    """
    for name in sorted(before.keys() & now.keys()):
        old, new = before[name], now[name]
        if isinstance(old, dict) and isinstance(new, dict):
            changed = _changed(old, new, f"{inside}{name}.")
            if changed is not None:
                return changed
        elif old != new:
            return f"{inside}{name}", old, new
    return None


def _config(teacher: str, trust_remote_code: bool) -> PretrainedConfig:
    if scheme_of(teacher) is None:
        return load_config(ModelRef.parse(teacher, trust_remote_code=trust_remote_code))
    return open_source(teacher, trust_remote_code=trust_remote_code).pretrained


def _check_features(settings: AddSettings, gives: Gives, teacher: str) -> None:
    check_features({"--hidden": settings.hidden, "--qkv": settings.qkv}, gives, teacher)


def _committed(settings: AddSettings, cache: Cache) -> list[int]:
    """Return the parts of the cache that are there, as far as `--parts` names them."""
    if not len(cache):
        raise BadInput(f"{settings.cache}: no part of it is committed. Finish its dump first.")
    if settings.parts is None:
        return cache.part_numbers
    parts = layout.parse_share(settings.parts, cache.manifest.parts)[0]
    if absent := sorted(set(parts) - set(cache.part_numbers)):
        raise BadInput(
            f"--parts {settings.parts}: part {absent[0]:05d} of {settings.cache} is not there. Finish its dump first."
        )
    return parts
