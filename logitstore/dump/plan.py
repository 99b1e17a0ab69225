"""`plan`: ask the teacher about a few samples; report the cost and the error of each preset. Read from top to bottom.

data -> draft -> teacher on a pilot (fits every tail at once) -> teacher on other samples (judges every candidate) -> figures

The fitted tails are stored in the folder of the future cache, and the dump uses them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.dump.ask import asked
from logitstore.dump.begin import prepare_parts, target_folder
from logitstore.dump.fit import Limits, fit_each, wants
from logitstore.dump.pilot_file import PilotRecord, data_of, keep_pilot, kind_of
from logitstore.dump.sparsify.fidelity import FidelityCheck, Truth
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.taps import tap_bytes
from logitstore.dump.task import Prepared, dump_task, load_teacher
from logitstore.dump.teachers import gives_of, scheme_of
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, storage_errors
from logitstore.format.manifest import Manifest
from logitstore.format.needs import GIFTS, HIDDEN, LOGITS, called
from logitstore.format.part_record import Fidelity, fidelity_of
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.settings.dump import DumpSettings, PilotSettings
from logitstore.store import layout
from logitstore.store.storage import open_storage
from logitstore.targets.decoder import Decoder

CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny": ("tiny", {}),
    "small": ("small", {}),
    "faithful": ("faithful", {}),
    "exact": ("exact", {}),
    "topk": ("topk", {}),
    "topk, k = 8": ("topk", {"k": 8}),
    "topk, k = 32": ("topk", {"k": 32}),
    "topk, k = 64": ("topk", {"k": 64}),
    "sampled": ("sampled", {}),
}
"""The candidates that are tried, by name: a preset and its options."""


_SHARED = DumpSettings.model_fields.keys() & PilotSettings.model_fields.keys()


JUDGED_SHARE = 5
"""One in this many pilot samples judges the candidates; the tails are fitted on the others."""


GIVEN = "as given"
"""The name of the candidate that the options describe, where they describe none of the others."""


GOOD_ENOUGH = 0.25
"""The smallest candidate with at most this KL (nats) at temperatures 1 and 2 is recommended."""


SHARED_TAILS = ("prior", "uniform")
"""Shapes of a tail that all rows share."""


@dataclass
class Candidate:
    """One way to keep a row, with its state during the trial."""

    preset: str
    row: RowInfo
    shared: dict[str, Tensor] = field(default_factory=dict)
    check: FidelityCheck | None = None
    keep: RowReducer | None = None
    seconds: float = 0.0


def plan(settings: PilotSettings, progress: Progress = no_progress) -> dict[str, Any]:
    """Return the figures of every candidate and the name of the recommended one, as plain JSON.

    Raises:
        BadInput: the data or options cannot be used.
        ModelError: the teacher cannot be loaded, or gives NaN.
    """
    if (why := dump_task(settings.task).no_plan) is not None:
        raise BadInput(f"plan --task {settings.task}: {why}.")
    _check_gives(settings.teacher, settings.trust_remote_code)
    planned = DumpSettings(**{name: getattr(settings, name) for name in _SHARED})
    with target_folder(planned.out, resume=planned.resume):
        prepared = prepare_parts(planned, progress)
        if not prepared.manifest.sparsifier.keeps_rows:
            raise BadInput(
                f"--preset {settings.preset}: it keeps no rows that could be judged. Leave it out, or dump at once."
            )
        parts = layout.parse_parts(planned.parts, prepared.manifest.parts)
        taps = tap_bytes(planned, prepared.config, prepared.places)
    with closing(load_teacher(prepared, progress)) as teacher:
        return _tried(settings, prepared, teacher, parts, taps, progress)


def _tried(
    settings: PilotSettings, prepared: Prepared, teacher: Teacher, parts: list[int], taps: int, progress: Progress
) -> dict[str, Any]:
    """Return the figures of a loaded teacher on a few samples."""
    manifest, samples = prepared.manifest, prepared.samples
    rows = sum(samples.rows_in(manifest.span(part)) for part in parts)
    chosen = [int(place) for place in np.linspace(0, len(samples) - 1, min(settings.pilot_samples, len(samples)))]
    order = np.random.default_rng(0).permutation(
        len(chosen)
    )  # with any time limit, the samples are spread over the data
    judging = [samples[chosen[place]] for place in order[::JUDGED_SHARE]]
    fitting = [samples[chosen[place]] for place in order if place not in set(order[::JUDGED_SHARE])] or judging
    candidates, given = _candidates(settings, manifest)
    limits = Limits(
        rows=settings.pilot_rows, seconds=60 * settings.minutes, total=sum(sample.rows for sample in fitting)
    )
    fits = fit_each(
        {name: each.row for name, each in candidates.items()},
        fitting,
        partial(_batches, prepared),
        teacher,
        manifest.teacher.vocabulary,
        limits,
        progress,
    )
    candidates = {name: replace(candidates[name], shared=shared) for name, shared in fits.shared.items()}
    judged_rows = _judge(settings, prepared, teacher, judging, candidates, progress)
    per_row = fits.seconds / fits.rows
    lines = [_line(name, each, rows, judged_rows, per_row, settings.epochs) for name, each in candidates.items()]
    _keep(settings, prepared, teacher, candidates, lines, fits.rows)
    return {
        "teacher": settings.teacher,
        "dtype": manifest.teacher.dtype,
        "data": settings.source,
        "samples": sum(manifest.samples_in(part) for part in parts),
        "rows": rows,
        "parts": len(parts),
        "tap_bytes_per_row": taps,
        "tap_bytes": taps * rows,
        "pilot_rows": fits.rows,
        "judged_rows": judged_rows,
        "teacher_rows_per_second": 1 / per_row,
        "left_out": fits.why_not,
        "candidates": lines,
        "given": given if given in candidates else None,
        "recommended": _recommended(lines),
    }


def _check_gives(teacher: str, trust_remote_code: bool) -> None:
    """Refuse a teacher of lists: nothing but its whole distribution says what a row loses. Raises BadInput."""
    if scheme_of(teacher) is None:
        return
    gives = gives_of(teacher, trust_remote_code=trust_remote_code)
    if LOGITS not in gives:
        raise BadInput(
            f"plan needs {GIFTS[LOGITS]}; {teacher} gives {called(gives)}. Dump it with --preset topk --tail uniform."
        )


def _candidates(settings: PilotSettings, manifest: Manifest) -> tuple[dict[str, Candidate], str | None]:
    """Return the candidates by name, and the name of the one that the options describe, if they describe one."""
    candidates = {}
    for name, (preset, options) in CANDIDATES.items():
        try:
            row = row_of(preset, options, manifest.teacher.vocabulary, manifest.teacher.width)
        except BadInput:
            continue  # impossible with a small vocabulary, or a teacher of unknown width
        candidates[name] = Candidate(preset, row)
    if settings.preset is None and not any(value is not None for value in settings.choices().values()):
        return candidates, None
    wanted = kind_of(manifest.row)
    given = next((name for name, each in candidates.items() if kind_of(each.row) == wanted), GIVEN)
    if given == GIVEN:
        row = manifest.row.model_copy(update={"tail": manifest.tail.model_copy(update={"pilot_rows": 0})})
        candidates[GIVEN] = Candidate(manifest.preset or "", row)
    return candidates, given


def _batches(prepared: Prepared, samples: list[Any]) -> Iterator[TeacherBatch]:
    """Make batches of a few samples at a time, so that they come in about the order given."""
    for first in range(0, len(samples), 32):
        yield from prepared.batches(samples[first : first + 32])


def _judge(
    settings: PilotSettings,
    prepared: Prepared,
    teacher: Teacher,
    samples: list[Any],
    candidates: dict[str, Candidate],
    progress: Progress,
) -> int:
    """Compare every candidate with the teacher on samples that no tail was fitted on; return the count of rows."""
    vocabulary = prepared.manifest.teacher.vocabulary
    for candidate in candidates.values():
        candidate.check = FidelityCheck(Decoder(candidate.row, candidate.shared), 1.0)
        candidate.keep = RowReducer.of(candidate.row, candidate.shared, None)
    needs_hidden = any(candidate.keep and HIDDEN in candidate.keep.wants for candidate in candidates.values())
    rows = 0
    for batch in _batches(prepared, samples):
        known, chunks = asked(teacher, batch, wants(needs_hidden), vocabulary)
        for chunk in chunks:
            truth = Truth.of(chunk.logits(), vocabulary)
            for candidate in candidates.values():
                if candidate.check is None or candidate.keep is None:
                    continue
                began = time.monotonic()
                kept = candidate.keep(known, chunk)
                candidate.seconds += time.monotonic() - began
                candidate.check.add(truth, kept)
            rows += len(chunk.gold_n)
            if rows >= settings.fidelity_rows:
                return rows
        progress(Step(stage="judge", done=rows, total=settings.fidelity_rows))
    return rows


def _line(name: str, each: Candidate, rows: int, judged: int, per_row: float, epochs: float) -> dict[str, Any]:
    """Return the figures of one candidate."""
    fidelity = each.check.take() if each.check is not None else Fidelity()
    # a mean over the bounded rows only would look too good
    figures = fidelity_of(fidelity) if not fidelity.unbounded else None
    info = sum(field.bytes for field in Decoder(each.row, each.shared).codec.fields.values())
    seconds = per_row + each.seconds / max(judged, 1)
    kl = {at: (figures or {}).get(at) for at in ("kl_t1", "kl_t2")}
    return {
        "name": name,
        "preset": each.preset,
        "tail": each.row.tail.shape,
        "bytes_per_row": info,
        "bytes": info * rows + sum(value.nbytes for value in each.shared.values()),
        "kl_t1": kl["kl_t1"],
        "kl_t2": kl["kl_t2"],
        "hours": rows * seconds / 3600,
        "pays_from_students": math.ceil(seconds / (per_row * epochs)),
    }


def _recommended(lines: list[dict[str, Any]]) -> str | None:
    """Return the name of the smallest candidate that is good enough at temperatures 1 and 2.

    Without such a candidate, return the one with the lowest sum of both KLs; None if no candidate has a finite KL. One whose
    rows share a tail is returned only where there is none with tails of its own: at an equal KL students learn less from it,
    since its errors are the same in every row (docs/benchmarks.md, "What students gain").
    """
    bounded = [line for line in lines if line["kl_t1"] and line["kl_t2"]]
    bounded = [line for line in bounded if line["tail"] not in SHARED_TAILS] or bounded
    good = [line for line in bounded if max(line["kl_t1"]["mean"], line["kl_t2"]["mean"]) <= GOOD_ENOUGH]
    if good:
        return str(min(good, key=lambda line: line["bytes"])["name"])
    if not bounded:
        return None
    return str(min(bounded, key=lambda line: line["kl_t1"]["mean"] + line["kl_t2"]["mean"])["name"])


def _keep(
    settings: PilotSettings,
    prepared: Prepared,
    teacher: Teacher,
    candidates: dict[str, Candidate],
    lines: list[dict[str, Any]],
    rows: int,
) -> None:
    kl = [
        (each.row, line["kl_t1"]["mean"], line["kl_t2"]["mean"])
        for each, line in zip(candidates.values(), lines, strict=True)
        if line["kl_t1"] and line["kl_t2"]
    ]
    record = PilotRecord(
        name=settings.teacher, teacher=teacher.fingerprint(), data=data_of(prepared.manifest), rows=rows
    )
    with storage_errors(settings.out):
        fits = [(each.row, each.shared) for each in candidates.values()]
        keep_pilot(open_storage(settings.out), record, fits, kl)
