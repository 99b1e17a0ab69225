"""`add`: features of the teacher for the rows of a cache that is there already. Reads top to bottom.

cache -> its teacher -> taps (tap.json, shared/) -> part by part: samples of the cache -> teacher -> codec -> staged part

Nothing but the folder `taps/` is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.taps import Tap
from logitstore.draft import spread
from logitstore.errors import BadInput, CacheMismatch
from logitstore.models import layer_count, load_config
from logitstore.part_loop import PartOut, write_part
from logitstore.plans import AddPlan
from logitstore.score import Answers, observe
from logitstore.tap_names import names_of
from logitstore.tapping import TapOut, TapRequest, encoders, establish_taps, established, finish_taps, missing_parts
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import ModelRef, Progress, Sample, Step, no_progress


def add(plan: AddPlan, progress: Progress = no_progress) -> Cache:
    """Write the taps that `plan` names, or what is missing of them, for the parts that the cache has.

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
            f"{plan.cache}: it is the mean of several teachers, and features belong to one. Add them to a cache of that one."
        )
    name = plan.teacher or cache.manifest.teacher.name
    config = load_config(ModelRef.parse(name))
    wanted = TapRequest(names=names_of(plan.hidden, plan.qkv, layer_count(config)), codec=plan.tap_codec)
    if not wanted.names:
        raise BadInput("add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final.")
    missing = missing_parts(plan.cache, wanted.names, _parts_wanted(plan, cache))
    if not established(plan.cache, cache.manifest, wanted) or any(missing.values()):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = CausalTeacher(ModelRef.parse(name), config, cache.manifest.teacher.dtype, plan.device)
        progress(Step(stage="fingerprint", done=0, total=1))
        if teacher.fingerprint() != cache.manifest.teacher.fingerprint:
            raise CacheMismatch(
                f"--teacher {name}: its weights are not those that {plan.cache} was made with "
                f"({cache.manifest.teacher.name}). Give that teacher."
            )
        _write_taps(plan, cache, wanted, missing, teacher, progress)
    finished = Cache(plan.cache)
    finish_taps(finished, wanted.names)
    return finished


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
    teacher: CausalTeacher,
    progress: Progress,
) -> None:
    """Ask the teacher once about each part of which some tap lacks its own."""

    def pilot() -> list[Sample]:
        return [cache[index].sample for index in spread(len(cache), cache.rows, plan.pilot_rows)]

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

        def ask(names: list[str], samples: list[Sample] = samples, mine: dict[str, Tap] = mine) -> Answers:
            kept = encoders(mine[name] for name in names)
            return observe(teacher, samples, cache.manifest.batch_tokens, kept)

        write_part(begin, ask, told)
