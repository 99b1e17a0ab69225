"""Where the parts of one command are written, and what is said where some could not be."""

from __future__ import annotations

import json
from contextlib import suppress

from logitstore.core.place import Place
from logitstore.core.registry import resolve
from logitstore.dump.processes.seats import seats
from logitstore.dump.processes.workers import Crew, LocalCrew
from logitstore.errors import LogitstoreError, PartsFailed
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.store.layout import FAILED_NAME
from logitstore.store.storage import open_storage

NAMED = 20
"""Parts that failed of which the line names the numbers."""


def crew_of(settings: DumpSettings | AddSettings) -> Crew | None:
    """Return the processes that write the parts; None where this one does. None of them is started yet.

    Raises:
        BadInput: they cannot have what they need.
    """
    if settings.cluster is not None:
        gpus = 0.0 if settings.gpus_per_worker is None and settings.device == "cpu" else settings.gpus_per_worker
        crew: Crew = resolve("logitstore.dump.processes.on_ray:RayCrew")(settings.cluster, settings.processes, gpus)
        return crew
    count = settings.processes or 1
    return LocalCrew(seats(settings.device, count)) if count > 1 else None


def refuse_failed(place: Place, failed: dict[int, str]) -> None:
    """Tell of parts that could not be written, here and, for `status`, in the cache.

    Args:
        place: where the cache lies.
        failed: the reasons, by the numbers of the parts.

    Raises:
        PartsFailed: there are some.
    """
    if not failed:
        return
    numbers = sorted(failed)
    with suppress(OSError, LogitstoreError):
        reasons = {str(part): failed[part] for part in numbers}
        open_storage(place).put(FAILED_NAME, json.dumps(reasons, indent=1, ensure_ascii=False).encode())
    named = " ".join(f"{part:05d}" for part in numbers[:NAMED]) + (" ..." if len(numbers) > NAMED else "")
    why = "; ".join(dict.fromkeys(failed[part] for part in numbers[:3]))
    raise PartsFailed(
        f"{place}: {len(numbers)} part{'s' if len(numbers) > 1 else ''} could not be written, all others are there: {named}. "
        f"{why}. Mend that and give the same command again; it writes what is missing."
    )
