"""`add`: features of the teacher for the rows of a cache that is there already, or more views of its images.

cache -> its teacher -> taps (tap.json, shared/) -> part by part: samples of the cache -> teacher -> codec -> staged part

For features nothing but the folder `taps/` is written. Views are parts of the cache itself, written by the jobs of `dump`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.taps import Tap
from logitstore.draft import spread
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.establish import with_views
from logitstore.image_draft import AskAgain, reopened
from logitstore.models import layer_count, load_config
from logitstore.part_jobs import write_parts
from logitstore.part_loop import PartOut, write_part
from logitstore.plans import AddPlan
from logitstore.score import Answers, Batches, TeacherBatch, observe, text_batches
from logitstore.tap_names import FINAL, names_of
from logitstore.tapping import TapOut, TapRequest, encoders, establish_taps, established, finish_taps, missing_parts
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.teachers.teacher import Teacher
from logitstore.types import Asked, ModelRef, Progress, Step, no_progress


def add(plan: AddPlan, progress: Progress = no_progress) -> Cache:
    """Write the taps that `plan` names, or what is missing of them, for the parts that the cache has; or the views.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        BadInput: nothing asked for, layers that the teacher does not have, parts that are not there.
        ModelError: the teacher cannot be loaded, or does not have the features asked for.
        CacheMismatch: another teacher, or a tap that is stored in another way.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    cache = Cache(plan.cache)
    cache.check_sizes()
    if cache.manifest.merged_from is not None:
        raise BadInput(
            f"{plan.cache}: it is the mean of several teachers. "
            + (
                "Features belong to one: add them to a cache of that one."
                if plan.views is None
                else "Add the views to the caches that it was made from, and give the merge command again."
            )
        )
    if plan.views is not None:
        return _add_views(plan, cache, progress)
    wanted = _taps_wanted(plan, cache)
    missing = missing_parts(plan.cache, wanted.names, _parts_wanted(plan, cache))
    if not established(plan.cache, cache.manifest, wanted) or any(missing.values()):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher, batches = _asked_again(plan, cache, progress)
        _check_weights(plan, cache, teacher, progress)
        _write_taps(plan, cache, wanted, missing, teacher, batches, progress)
    finished = Cache(plan.cache)
    finish_taps(finished, wanted.names)
    return finished


def _taps_wanted(plan: AddPlan, cache: Cache) -> TapRequest:
    if cache.manifest.view is None:
        _refuse_set(plan, ("images", "workers"), f"{plan.cache} is a cache of text")
        config = load_config(ModelRef.parse(plan.teacher or cache.manifest.teacher.name))
        wanted = TapRequest(names=names_of(plan.hidden, plan.qkv, layer_count(config)), codec=plan.tap_codec)
        if not wanted.names:
            raise BadInput("add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final.")
        return wanted
    if plan.hidden != FINAL or plan.qkv is not None:
        more = cache.manifest.views
        raise BadInput(
            f"{plan.cache}: a cache of images takes more --views, such as {more}-{2 * more - 1}, or --hidden final."
        )
    return TapRequest(names=[FINAL], codec=plan.tap_codec)


def _refuse_set(plan: AddPlan, names: Iterable[str], why: str) -> None:
    """Refuse options that would change nothing."""
    for name in names:
        if getattr(plan, name) != AddPlan.model_fields[name].default:
            raise BadInput(f"--{name.replace('_', '-')} {getattr(plan, name)}: {why}. Leave it out.")


def _asked_again(plan: AddPlan, cache: Cache, progress: Progress) -> tuple[Teacher, Batches]:
    """The teacher, and how the cache's samples become its batches."""
    manifest = cache.manifest
    if manifest.view is None:
        model = ModelRef.parse(plan.teacher or manifest.teacher.name)
        teacher = CausalTeacher(model, load_config(model), manifest.teacher.dtype, plan.device)
        return teacher, partial(text_batches, budget=manifest.batch_tokens)
    drafted = reopened(_where(plan), cache, manifest.views, progress)
    return drafted.load(), drafted.batches


def _where(plan: AddPlan) -> AskAgain:
    return AskAgain(teacher=plan.teacher, images=plan.images, device=plan.device, workers=plan.workers)


def _add_views(plan: AddPlan, cache: Cache, progress: Progress) -> Cache:
    """Write the views that `plan` names, or what is missing of them, as parts of the cache itself."""
    manifest = cache.manifest
    first, _, last = str(plan.views).replace(" ", "").partition("-")
    views = range(int(first), int(last or first) + 1)
    if manifest.view is None:
        raise BadInput(f"--views {plan.views}: {plan.cache} is a cache of text, which has no views.")
    if plan.hidden is not None or plan.qkv is not None or plan.tap_codec is not None:
        raise BadInput("--views with --hidden or --qkv: add them one after the other.")
    _refuse_set(plan, ("pilot_rows",), "nothing is fitted for more views")
    if not views:
        raise BadInput(
            f"--views {plan.views}: write a number or a range, such as {manifest.views}-{manifest.views + 4}."
        )
    if views[0] > manifest.views:
        raise BadInput(
            f"--views {plan.views}: {plan.cache} has views 0 to {manifest.views - 1}. Begin with {manifest.views} or less."
        )
    drafted = reopened(_where(plan), cache, max(views[-1] + 1, manifest.views), progress)
    wanted = list(range(views[0] * manifest.parts_of_view, (views[-1] + 1) * manifest.parts_of_view))
    if plan.parts is not None:
        chosen = set(layout.parse_parts(plan.parts, wanted[-1] + 1))
        if outside := sorted(chosen - set(wanted)):
            raise BadInput(f"--parts {plan.parts}: part {outside[0]} is not of the views {plan.views}.")
        wanted = [part for part in wanted if part in chosen]
    done = set(layout.committed_parts(plan.cache))
    if todo := [part for part in wanted if part not in done]:
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = drafted.load()
        _check_weights(plan, cache, teacher, progress)
        write_parts(plan.cache, with_views(plan.cache, views[-1] + 1), drafted, todo, teacher, progress)
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    with_views(plan.cache, views[-1] + 1)
    finished = Cache(plan.cache)
    finished.check_sizes()
    if finished.complete:
        with storage_errors(plan.cache):
            layout.sweep(plan.cache)
    return finished


def _check_weights(plan: AddPlan, cache: Cache, teacher: Teacher, progress: Progress) -> None:
    """Raises CacheMismatch where it is not the cache's teacher."""
    progress(Step(stage="fingerprint", done=0, total=1))
    if teacher.fingerprint() != cache.manifest.teacher.fingerprint:
        raise CacheMismatch(
            f"--teacher {plan.teacher or cache.manifest.teacher.name}: its weights are not those that {plan.cache} was made "
            f"with ({cache.manifest.teacher.name}). Give that teacher."
        )


def _parts_wanted(plan: AddPlan, cache: Cache) -> list[int]:
    if not len(cache):
        raise BadInput(f"{plan.cache}: no part of it is committed. Finish its dump first.")
    if plan.parts is None:
        return cache.part_numbers
    parts = layout.parse_parts(plan.parts, cache.manifest.parts)
    if absent := sorted(set(parts) - set(cache.part_numbers)):
        raise BadInput(
            f"--parts {plan.parts}: part {absent[0]:05d} of {plan.cache} is not there. Finish its dump first."
        )
    return parts


def _write_taps(
    plan: AddPlan,
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
        return batches([cache[first + index].sample for index in spread(count, rows, plan.pilot_rows)])

    taps = establish_taps(plan.cache, cache.manifest, wanted, teacher, pilot, progress)
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
            name: partial(TapOut, plan.cache, tap, part, samples) for name, tap in mine.items()
        }

        def ask(names: list[str], samples: list[Asked] = samples, mine: dict[str, Tap] = mine) -> Answers:
            kept = encoders(mine[name] for name in names)
            return observe(teacher, batches(samples), kept)

        write_part(begin, ask, told)
