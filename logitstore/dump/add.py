"""`add`: features of the teacher for the rows of a cache that is there already, or more views of its images.

cache -> its teacher -> taps (tap.json, shared/) -> part by part: samples of the cache -> teacher -> codec -> staged part

For features nothing but the folder `taps/` is written. Views are parts of the cache itself, written by the jobs of `dump`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Asked, ModelRef
from logitstore.dump.ask import Answers, Batches, TeacherBatch, ask_features
from logitstore.dump.begin import ensure_views
from logitstore.dump.parts import PartOut, write_part, write_parts
from logitstore.dump.taps import TapOut, TapRequest, begin_taps, encoders, finish_taps, missing_parts, taps_are_begun
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.dump.teachers.teacher import Teacher
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.format.tap_names import FINAL, names_of
from logitstore.image.dump import AskAgain, reopened
from logitstore.models.load import load_config
from logitstore.models.shape import layer_count
from logitstore.settings.dump import AddSettings
from logitstore.store import layout, storage
from logitstore.store.cache import Cache
from logitstore.store.taps import Tap
from logitstore.text.dump import text_batches


def add(settings: AddSettings, progress: Progress = no_progress) -> Cache:
    """Write the taps that `settings` names, or what is missing of them, for the parts that the cache has; or the views.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: nothing asked for, layers that the teacher does not have, parts that are not there.
        ModelError: the teacher cannot be loaded, or does not have the features asked for.
        CacheMismatch: another teacher, or a tap that is stored in another way.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
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
    if settings.views is not None:
        return _add_views(settings, cache, progress)
    wanted = _taps_wanted(settings, cache)
    missing = missing_parts(settings.cache, wanted.names, _parts_wanted(settings, cache))
    if not taps_are_begun(settings.cache, cache.manifest, wanted) or any(missing.values()):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher, batches = _asked_again(settings, cache, progress)
        _check_weights(settings, cache, teacher, progress)
        _write_taps(settings, cache, wanted, missing, teacher, batches, progress)
    finished = Cache(settings.cache)
    finish_taps(finished, wanted.names)
    return finished


def _taps_wanted(settings: AddSettings, cache: Cache) -> TapRequest:
    if cache.manifest.view is None:
        _refuse_set(settings, ("images", "workers"), f"{settings.cache} is a cache of text")
        config = load_config(ModelRef.parse(settings.teacher or cache.manifest.teacher.name))
        wanted = TapRequest(
            names=names_of(settings.hidden, settings.qkv, layer_count(config)), codec=settings.tap_codec
        )
        if not wanted.names:
            raise BadInput("add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final.")
        return wanted
    if settings.hidden != FINAL or settings.qkv is not None:
        more = cache.manifest.views
        raise BadInput(
            f"{settings.cache}: a cache of images takes more --views, such as {more}-{2 * more - 1}, or --hidden final."
        )
    return TapRequest(names=[FINAL], codec=settings.tap_codec)


def _refuse_set(settings: AddSettings, names: Iterable[str], why: str) -> None:
    """Refuse options that would change nothing."""
    for name in names:
        if getattr(settings, name) != AddSettings.model_fields[name].default:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(settings, name)}: {why}. Leave it out.")


def _asked_again(settings: AddSettings, cache: Cache, progress: Progress) -> tuple[Teacher, Batches]:
    """The teacher, and how the cache's samples become its batches."""
    manifest = cache.manifest
    if manifest.view is None:
        model = ModelRef.parse(settings.teacher or manifest.teacher.name)
        teacher = CausalTeacher(model, load_config(model), manifest.teacher.dtype, settings.device)
        return teacher, partial(text_batches, budget=manifest.batch_tokens)
    prepared = reopened(_where(settings), cache, manifest.views, progress)
    return prepared.load(), prepared.batches


def _where(settings: AddSettings) -> AskAgain:
    return AskAgain(teacher=settings.teacher, images=settings.images, device=settings.device, workers=settings.workers)


def _add_views(settings: AddSettings, cache: Cache, progress: Progress) -> Cache:
    """Write the views that `settings` names, or what is missing of them, as parts of the cache itself."""
    manifest = cache.manifest
    first, _, last = str(settings.views).replace(" ", "").partition("-")
    views = range(int(first), int(last or first) + 1)
    if manifest.view is None:
        raise BadInput(f"--views {settings.views}: {settings.cache} is a cache of text, which has no views.")
    if settings.hidden is not None or settings.qkv is not None or settings.tap_codec is not None:
        raise BadInput("--views with --hidden or --qkv: add them one after the other.")
    _refuse_set(settings, ("pilot_rows",), "nothing is fitted for more views")
    if not views:
        raise BadInput(
            f"--views {settings.views}: write a number or a range, such as {manifest.views}-{manifest.views + 4}."
        )
    if views[0] > manifest.views:
        raise BadInput(
            f"--views {settings.views}: {settings.cache} has views 0 to {manifest.views - 1}. Begin with {manifest.views} or less."
        )
    prepared = reopened(_where(settings), cache, max(views[-1] + 1, manifest.views), progress)
    wanted = list(range(views[0] * manifest.parts_of_view, (views[-1] + 1) * manifest.parts_of_view))
    if settings.parts is not None:
        chosen = set(layout.parse_parts(settings.parts, wanted[-1] + 1))
        if outside := sorted(chosen - set(wanted)):
            raise BadInput(f"--parts {settings.parts}: part {outside[0]} is not of the views {settings.views}.")
        wanted = [part for part in wanted if part in chosen]
    done = set(layout.committed_parts(settings.cache))
    if todo := [part for part in wanted if part not in done]:
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = prepared.load()
        _check_weights(settings, cache, teacher, progress)
        write_parts(settings.cache, ensure_views(settings.cache, views[-1] + 1), prepared, todo, teacher, progress)
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    ensure_views(settings.cache, views[-1] + 1)
    finished = Cache(settings.cache)
    finished.check_sizes()
    if finished.complete:
        with storage_errors(settings.cache):
            storage.sweep(settings.cache)
    return finished


def _check_weights(settings: AddSettings, cache: Cache, teacher: Teacher, progress: Progress) -> None:
    """Raises CacheMismatch where it is not the cache's teacher."""
    progress(Step(stage="fingerprint", done=0, total=1))
    if teacher.fingerprint() != cache.manifest.teacher.fingerprint:
        raise CacheMismatch(
            f"--teacher {settings.teacher or cache.manifest.teacher.name}: its weights are not those that {settings.cache} was made "
            f"with ({cache.manifest.teacher.name}). Give that teacher."
        )


def _parts_wanted(settings: AddSettings, cache: Cache) -> list[int]:
    if not len(cache):
        raise BadInput(f"{settings.cache}: no part of it is committed. Finish its dump first.")
    if settings.parts is None:
        return cache.part_numbers
    parts = layout.parse_parts(settings.parts, cache.manifest.parts)
    if absent := sorted(set(parts) - set(cache.part_numbers)):
        raise BadInput(
            f"--parts {settings.parts}: part {absent[0]:05d} of {settings.cache} is not there. Finish its dump first."
        )
    return parts


def _write_taps(
    settings: AddSettings,
    cache: Cache,
    wanted: TapRequest,
    missing: dict[str, list[int]],
    teacher: Teacher,
    batches: Batches,
    progress: Progress,
) -> None:
    """Ask the teacher once about each part of which some tap lacks its own."""

    def pilot() -> Iterable[TeacherBatch]:
        views = cache.whole_views if cache.manifest.view is not None else []
        # of images one view is looked at, as in a dump
        count, rows = (cache.manifest.samples, cache.manifest.rows) if views else (len(cache), cache.rows)
        first = cache.first_sample_of(views[0]) if views else 0
        return batches([cache[first + index].sample for index in spread(count, rows, settings.pilot_rows)])

    taps = begin_taps(settings.cache, cache.manifest, wanted, teacher, pilot, progress)
    parts = sorted({part for own in missing.values() for part in own})
    rows = {record.part: record.rows for record in cache.records}
    total = sum(rows[part] for part in parts)
    size = f"{sum(tap.info.bytes_per_row for tap in taps)} B/row"
    done = 0

    def told(count: int) -> None:
        nonlocal done
        done += count
        progress(Step(stage="add", done=done, total=total, part=part, note=size))

    for part in parts:
        held = cache.samples_of(part)
        samples = [held.sample(index) for index in range(len(held))]
        mine = {tap.name: tap for tap in taps if part in missing[tap.name]}
        begin: dict[str, Callable[[], PartOut]] = {
            name: partial(TapOut, settings.cache, tap, part, samples) for name, tap in mine.items()
        }

        def ask(names: list[str], samples: list[Asked] = samples, mine: dict[str, Tap] = mine) -> Answers:
            kept = encoders(mine[name] for name in names)
            return ask_features(teacher, batches(samples), kept)

        write_part(begin, ask, told)
