"""`dump`: run the teacher once over the data, and keep what it said. Reads top to bottom.

documents -> samples -> plan (cache.json) -> pilot (shared/) -> part by part: teacher -> sparsifier -> codec -> part writer
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from transformers import PretrainedConfig

from logitstore.core.progress import NO_STOPWATCH, Progress, Step, Stopwatch, no_progress
from logitstore.dump.begin import ensure_views, establish, existing_manifest
from logitstore.dump.parts import write_parts
from logitstore.dump.taps import (
    TapRequest,
    begin_taps,
    expected_bytes,
    finish_taps,
    missing_parts,
    taps_are_begun,
    widths_of,
)
from logitstore.dump.task import prepare
from logitstore.errors import BadInput, storage_errors
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.tap import TAPS
from logitstore.format.tap_names import FINAL, names_of
from logitstore.models.shape import layer_count
from logitstore.settings.dump import DumpSettings
from logitstore.store import layout, storage
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import shared_problems


def dump(settings: DumpSettings, progress: Progress = no_progress, watch: Stopwatch = NO_STOPWATCH) -> Cache:
    """Write the cache that `settings` describes, or what is missing of it.

    Args:
        settings: what to do.
        progress: receives the steps.
        watch: times the stages of the parts.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher that cannot be loaded or gives NaN, or does not have the features asked for.
        CacheMismatch: `settings.out` is a cache of another plan, or of images that are others now, or a tap in it is stored in
            another way.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    is_new = not settings.out.exists()
    check_target(settings)
    try:
        prepared = prepare(settings, progress)
        wanted = taps_wanted(settings, prepared.config)
    except BaseException:
        if is_new:
            with suppress(OSError):
                settings.out.rmdir()
        raise
    manifest = existing_manifest(settings, prepared.manifest)
    parts = _parts_wanted(settings, prepared.manifest)
    done = set(layout.committed_parts(settings.out))
    todo = [part for part in parts if part not in done]
    missing = missing_parts(settings.out, wanted.names, parts)
    is_begun = manifest is not None and taps_are_begun(settings.out, manifest, wanted)
    if manifest is None or todo or shared_problems(settings.out, manifest) or not is_begun or any(missing.values()):
        progress(Step(stage="load the teacher", done=0, total=1))
        teacher = prepared.load()
        widths_of(teacher, wanted.names, wanted.codec)  # what cannot be had is refused before anything is written
        manifest = establish(settings, prepared, manifest, teacher, progress)
        prepared = prepared.going_on_with(Cache(settings.out))
        taps = begin_taps(
            settings.out,
            manifest,
            wanted,
            teacher,
            lambda: prepared.batches(prepared.pilot(settings.pilot_rows)),
            progress,
        )
        write_parts(
            settings.out, manifest, prepared, todo, teacher, progress, watch, [(tap, missing[tap.name]) for tap in taps]
        )
    # also where nothing was left to do: a process that was stopped, or saw fewer views, may have left the plan behind
    ensure_views(settings.out, prepared.manifest.views)
    cache = Cache(settings.out)
    cache.check_sizes()  # parts left over from another plan are refused here, not when a student is trained
    finish_taps(cache, wanted.names)
    if cache.complete:
        with storage_errors(settings.out):
            storage.sweep(settings.out)
    return cache


def taps_wanted(settings: DumpSettings, config: PretrainedConfig) -> TapRequest:
    """The features of the teacher that are kept beside its answers. Raises BadInput: see `names_of`."""
    if settings.task != "causal-lm" and settings.hidden not in (None, FINAL):
        raise BadInput(
            f"--hidden {settings.hidden}: of image classifiers only what their output layer takes is kept. Give final."
        )
    # not every configuration counts layers by this name, and only taps ask for them
    layers = layer_count(config) if settings.hidden not in (None, FINAL) or settings.qkv is not None else 1
    return TapRequest(names=names_of(settings.hidden, settings.qkv, layers), codec=settings.tap_codec)


def tap_bytes(settings: DumpSettings, config: PretrainedConfig) -> int:
    """Bytes a row that they will take."""
    return expected_bytes(config, taps_wanted(settings, config))


def check_target(settings: DumpSettings) -> None:
    """Refuse, before any work, a target that cannot become or is not this cache."""
    if settings.out.exists() and not settings.out.is_dir():
        raise BadInput(f"--out {settings.out}: a file stands there. Choose another folder.")
    with storage_errors(settings.out):
        settings.out.mkdir(parents=True, exist_ok=True)
        names = {name for name in os.listdir(settings.out) if not name.startswith(".")}
        (probe := settings.out / f".probe.{os.getpid()}").touch()
        probe.unlink(missing_ok=True)
    if MANIFEST_NAME in names:
        if not settings.resume:
            raise BadInput(
                f"--out {settings.out}: a cache is there already. Choose another folder, or leave out --no-resume."
            )
    elif names - {layout.PARTS, layout.SHARED, layout.PILOT, TAPS, "lost+found"}:
        raise BadInput(f"--out {settings.out}: the folder holds other files. Choose an empty or new one.")


def _parts_wanted(settings: DumpSettings, manifest: Manifest) -> list[int]:
    return (
        layout.parse_parts(settings.parts, manifest.parts)
        if settings.parts is not None
        else list(range(manifest.parts))
    )


def free_bytes(folder: Path) -> int:
    """Bytes free on the disk that will hold `folder`."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
