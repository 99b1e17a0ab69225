"""How far a cache is, from listings alone: no part is opened, and nothing of one is fetched.

It can be asked while a dump is running, on any machine that can read the place.
"""

from __future__ import annotations

import json
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from logitstore.core.place import Place
from logitstore.core.tasks import task_of
from logitstore.errors import CacheDamaged, LogitstoreError, NotACache
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.tap import tap_folder
from logitstore.store.layout import FAILED_NAME
from logitstore.store.storage import Storage, open_storage, read_sealed, read_small
from logitstore.store.taps import tap_folders

RECENT = 64
"""The speed is that of so many parts that came last."""

IDLE_FACTOR, IDLE_SECONDS = 8.0, 120.0
"""Nobody writes any more where nothing came for so many times the usual pause between two parts, and for so many seconds."""


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """How far the parts of a cache, or of a tap, are.

    Attributes:
        name: `cache`, or the name of the tap.
        parts, planned: count of the parts that are there, and of all of the plan.
        missing: numbers of the others, rising.
        failed: of those of them that were given up, the reason, by number.
        samples: count of the samples of the parts that are there.
        rows, rows_planned: count of their rows, and of all of the plan. As long as parts are missing, it is estimated from the
            samples, because only the parts say how many rows they have.
        idle_seconds: since the last part came; None where the storage keeps no times or no part is there.
        rows_per_second: speed of the parts that came last; None where it cannot be said, or nobody seems to write any more.
        seconds_left: how long the rest takes at that speed; None as above.
    """

    name: str
    parts: int
    planned: int
    missing: list[int]
    failed: dict[int, str] = field(default_factory=dict)
    samples: int
    rows: int
    rows_planned: int
    idle_seconds: float | None
    rows_per_second: float | None
    seconds_left: float | None


def status(place: Place) -> list[Progressed]:
    """Return how far a cache and each of its taps are, the cache first.

    Raises:
        NotACache, CacheDamaged: no cache is there, or its plan is damaged.
        StorageError: the storage cannot be read.
    """
    storage = open_storage(place)
    try:
        manifest = read_sealed(Manifest, storage, MANIFEST_NAME)
    except NotACache as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise  # something else stands there
        raise NotACache(
            f"{place}: no cache is there yet, or none ever. A dump writes its plan ({MANIFEST_NAME}) once it has loaded its "
            "teacher and asked it about the pilot; look again then, or check the address."
        ) from error
    failed = _failed(storage)
    found = [_progressed("cache", storage, manifest, failed)]
    kept = task_of(manifest.task).keeps
    for name in sorted({*tap_folders(storage), *([] if kept is None else [kept])}):
        found.append(_progressed(name, storage.within(tap_folder(name)), manifest, {}))
    return found


def _progressed(name: str, storage: Storage, manifest: Manifest, failed: dict[int, str]) -> Progressed:
    if hasattr(storage, "commit_times"):
        times = {part: time for part, time in storage.commit_times().items() if part < manifest.parts}
        parts = sorted(times)
    else:
        times, parts = {}, [part for part in storage.list_parts() if part < manifest.parts]
    counts = manifest.sample_counts(np.array(parts, np.int64))
    samples, samples_planned = int(counts.sum()), manifest.samples * manifest.views
    rows_planned = manifest.rows * manifest.views
    row_share = rows_planned / samples_planned
    # a place that keeps no times says 0
    times = {part: time for part, time in times.items() if time}
    missing = sorted(set(range(manifest.parts)) - set(parts))
    idle = max(time.time() - max(times.values()), 0.0) if times else None
    speed = _samples_per_second(times, manifest, idle) if missing else None
    return Progressed(
        name=name,
        parts=len(parts),
        planned=manifest.parts,
        missing=missing,
        failed={part: reason for part, reason in failed.items() if part in set(missing)},
        samples=samples,
        rows=round(samples * row_share),
        rows_planned=rows_planned,
        idle_seconds=idle,
        rows_per_second=None if speed is None else speed * row_share,
        seconds_left=None if speed is None else (samples_planned - samples) / speed,
    )


def _samples_per_second(times: dict[int, float], manifest: Manifest, idle: float | None) -> float | None:
    """Return the speed of the parts that came last: the samples of all but the first of them, over the time since that."""
    recent = sorted(times, key=lambda part: (times[part], part))[-RECENT:]
    if len(recent) < 2 or idle is None:
        return None
    moments = [times[part] for part in recent]
    pauses = np.diff(moments).tolist()
    if moments[-1] <= moments[0] or idle > max(IDLE_FACTOR * statistics.mean(pauses), IDLE_SECONDS):
        return None
    # a dump that was interrupted and goes on is as fast as since then
    begun = max((place for place, pause in enumerate(pauses, 1) if _is_break(pause, pauses)), default=0)
    recent, moments = recent[begun:], moments[begun:]
    if len(recent) < 2 or moments[-1] <= moments[0]:
        return None
    samples = int(manifest.sample_counts(np.array(recent[1:], np.int64)).sum())
    return samples / (moments[-1] - moments[0])


def _is_break(pause: float, pauses: list[float]) -> bool:
    return pause > IDLE_SECONDS and pause > IDLE_FACTOR * statistics.median(pauses)


def _failed(storage: Storage) -> dict[int, str]:
    """Return what a driver says of parts that it gave up; nothing where the file is not there or is not its."""
    content: Any = None
    with suppress(FileNotFoundError, CacheDamaged, ValueError, RecursionError, LogitstoreError):
        content = json.loads(read_small(storage, FAILED_NAME))
    if not isinstance(content, dict):
        return {}
    return {int(part): str(reason) for part, reason in content.items() if part.isdecimal() and len(part) < 12}


def ranges(numbers: list[int]) -> str:
    """Return rising numbers as `--parts` takes them, such as `0-99,120`."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][-1] + 1:
            pieces[-1][1:] = [number]
        else:
            pieces.append([number])
    return ",".join("-".join(map(str, piece)) for piece in pieces)
