"""`dump`: run the teacher once over the data, and keep what it said. Reads top to bottom.

documents -> samples -> plan (cache.json) -> pilot (shared/) -> part by part: teacher -> sparsifier -> codec -> part writer
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from transformers import PretrainedConfig

from logitstore.cache import layout
from logitstore.cache.reader import Cache
from logitstore.cache.verify import shared_problems
from logitstore.draft import draft
from logitstore.errors import BadInput, storage_errors
from logitstore.establish import establish, existing_manifest, with_views
from logitstore.manifest import MANIFEST_NAME, Manifest
from logitstore.models import layer_count
from logitstore.part_jobs import write_parts
from logitstore.plans import DumpPlan
from logitstore.stopwatch import OFF, Stopwatch
from logitstore.tap_info import TAPS
from logitstore.tap_names import FINAL, names_of
from logitstore.tapping import (
    TapRequest,
    establish_taps,
    established,
    expected_bytes,
    finish_taps,
    missing_parts,
    widths_of,
)
from logitstore.types import Progress, Step, no_progress


def dump(plan: DumpPlan, progress: Progress = no_progress, watch: Stopwatch = OFF) -> Cache:
    """Write the cache that `plan` describes, or what is missing of it.

    Args:
        plan: what to do.
        progress: receives the steps.
        watch: times the stages of the parts.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher that cannot be loaded or gives NaN, or does not have the features asked for.
        CacheMismatch: `plan.out` is a cache of another plan, or of images that are others now, or a tap in it is stored in
            another way.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    is_new = not plan.out.exists()
    check_target(plan)
    try:
        drafted = draft(plan, progress)
        wanted = taps_wanted(plan, drafted.config)
    except BaseException:
        if is_new:
            with suppress(OSError):
                plan.out.rmdir()
        raise
    manifest = existing_manifest(plan, drafted.manifest)
    parts = _parts_wanted(plan, drafted.manifest)
    done = set(layout.committed_parts(plan.out))
    todo = [part for part in parts if part not in done]
    missing = missing_parts(plan.out, wanted.names, parts)
    is_begun = manifest is not None and established(plan.out, manifest, wanted)
    if manifest is None or todo or shared_problems(plan.out, manifest) or not is_begun or any(missing.values()):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = drafted.load()
        widths_of(teacher, wanted.names, wanted.codec)  # what cannot be had is refused before anything is written
        manifest = establish(plan, drafted, manifest, teacher, progress)
        drafted = drafted.going_on_with(Cache(plan.out))
        taps = establish_taps(
            plan.out,
            manifest,
            wanted,
            teacher,
            lambda: drafted.batches(drafted.pilot(plan.pilot_rows)),
            progress,
        )
        write_parts(
            plan.out, manifest, drafted, todo, teacher, progress, watch, [(tap, missing[tap.name]) for tap in taps]
        )
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    with_views(plan.out, drafted.manifest.views)
    cache = Cache(plan.out)
    cache.check_sizes()  # parts left over from another plan are refused here, not when a student is trained
    finish_taps(cache, wanted.names)
    if cache.complete:
        with storage_errors(plan.out):
            layout.sweep(plan.out)
    return cache


def taps_wanted(plan: DumpPlan, config: PretrainedConfig) -> TapRequest:
    """The features of the teacher that are kept beside its answers. Raises BadInput: see `names_of`."""
    if plan.task != "causal-lm" and plan.hidden not in (None, FINAL):
        raise BadInput(
            f"--hidden {plan.hidden}: of image classifiers only what their output layer takes is kept. Give final."
        )
    # not every configuration counts layers by this name, and only taps ask for them
    layers = layer_count(config) if plan.hidden not in (None, FINAL) or plan.qkv is not None else 1
    return TapRequest(names=names_of(plan.hidden, plan.qkv, layers), codec=plan.tap_codec)


def tap_bytes(plan: DumpPlan, config: PretrainedConfig) -> int:
    """Bytes a row that they will take."""
    return expected_bytes(config, taps_wanted(plan, config))


def check_target(plan: DumpPlan) -> None:
    """Refuse, before any work, a target that cannot become or is not this cache."""
    if plan.out.exists() and not plan.out.is_dir():
        raise BadInput(f"--out {plan.out}: a file stands there. Choose another folder.")
    with storage_errors(plan.out):
        plan.out.mkdir(parents=True, exist_ok=True)
        names = {name for name in os.listdir(plan.out) if not name.startswith(".")}
        (probe := plan.out / f".probe.{os.getpid()}").touch()
        probe.unlink(missing_ok=True)
    if MANIFEST_NAME in names:
        if not plan.resume:
            raise BadInput(
                f"--out {plan.out}: a cache is there already. Choose another folder, or leave out --no-resume."
            )
    elif names - {layout.PARTS, layout.SHARED, layout.PILOT, TAPS, "lost+found"}:
        raise BadInput(f"--out {plan.out}: the folder holds other files. Choose an empty or new one.")


def _parts_wanted(plan: DumpPlan, manifest: Manifest) -> list[int]:
    return layout.parse_parts(plan.parts, manifest.parts) if plan.parts is not None else list(range(manifest.parts))


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that will hold `folder`."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
