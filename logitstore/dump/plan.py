"""`plan`: ask the teacher about a few samples; report the cost and the error of each preset. Read from top to bottom.

data -> draft -> teacher on a pilot (fits every tail at once) -> teacher on other samples (judges every candidate) -> figures

The fitted tails are stored in the folder of the future cache, and the dump uses them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.dump.begin import target_folder
from logitstore.dump.fit import fitted, head_tensors, listed_by
from logitstore.dump.pilot_file import PilotRecord, keep_pilot
from logitstore.dump.sparsify.fidelity import FidelityCheck, Truth
from logitstore.dump.sparsify.reduce import RowReducer, sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.task import Prepared, dump_task, prepare
from logitstore.dump.teachers import open_source, scheme_of
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, ModelError, storage_errors
from logitstore.format.needs import GIFTS, HIDDEN, LOGITS, Gives, called
from logitstore.format.part_record import Fidelity, fidelity_of
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.models.head import LinearHead
from logitstore.settings.dump import DumpSettings, PilotSettings, TeacherSettings
from logitstore.store.storage import open_storage
from logitstore.targets.decoder import Decoder
from logitstore.targets.rows import RowChunk

CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
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


JUDGED_SHARE = 5
"""One in this many pilot samples judges the candidates; the tails are fitted on the others."""


FITTED_ROWS, JUDGED_ROWS = 12288, 2000


GOOD_ENOUGH = 0.25
"""The smallest candidate with at most this KL (nats) at temperatures 1 and 2 is recommended."""


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
    wanted = DumpSettings(**{name: getattr(settings, name) for name in TeacherSettings.model_fields})
    with target_folder(wanted.out):
        prepared = prepare(wanted, progress)
    manifest, samples = prepared.manifest, prepared.samples
    progress(Step(stage="load the teacher", done=0, total=1))
    teacher = prepared.load()
    chosen = [int(place) for place in np.linspace(0, len(samples) - 1, min(settings.pilot_samples, len(samples)))]
    order = np.random.default_rng(0).permutation(
        len(chosen)
    )  # with any time limit, the samples are spread over the data
    judging = [samples[chosen[place]] for place in order[::JUDGED_SHARE]]
    fitting = [samples[chosen[place]] for place in order if place not in set(order[::JUDGED_SHARE])] or judging
    candidates = _candidates(manifest.teacher.vocabulary, manifest.teacher.width)
    fitted_rows, teacher_seconds, why_not = _fit(settings, prepared, teacher, fitting, candidates, progress)
    judged_rows = _judge(prepared, teacher, judging, candidates, progress)
    per_row = teacher_seconds / fitted_rows
    lines = [
        _line(name, each, manifest.rows, judged_rows, per_row, settings.epochs) for name, each in candidates.items()
    ]
    _keep(settings, prepared, teacher, candidates, lines, fitted_rows)
    return {
        "teacher": settings.teacher,
        "dtype": manifest.teacher.dtype,
        "data": settings.data,
        "samples": manifest.samples,
        "rows": manifest.rows,
        "pilot_rows": fitted_rows,
        "judged_rows": judged_rows,
        "teacher_rows_per_second": 1 / per_row,
        "left_out": why_not,
        "candidates": lines,
        "recommended": _recommended(lines),
    }


def _check_gives(teacher: str, trust_remote_code: bool) -> None:
    """Refuse a teacher of lists: nothing but its whole distribution says what a row loses. Raises BadInput."""
    if scheme_of(teacher) is None:
        return
    gives = open_source(teacher, trust_remote_code=trust_remote_code).gives
    if LOGITS not in gives:
        raise BadInput(
            f"plan needs {GIFTS[LOGITS]}; {teacher} gives {called(gives)}. Dump it with --preset topk --tail uniform."
        )


def _candidates(vocabulary: int, width: int | None) -> dict[str, Candidate]:
    candidates = {}
    for name, (preset, settings) in CANDIDATES.items():
        try:
            candidates[name] = Candidate(preset, row_of(preset, settings, vocabulary, width))
        except BadInput:
            continue  # impossible with a small vocabulary, or a teacher of unknown width
    return candidates


def _batches(prepared: Prepared, samples: list[Any]) -> Iterator[TeacherBatch]:
    """Make batches of a few samples at a time, so that they come in about the order given."""
    for first in range(0, len(samples), 32):
        yield from prepared.batches(samples[first : first + 32])


def _fit(
    settings: PilotSettings,
    prepared: Prepared,
    teacher: Teacher,
    samples: list[Any],
    candidates: dict[str, Candidate],
    progress: Progress,
) -> tuple[int, float, str | None]:
    """Fit the tails of all candidates in one pass; drop candidates that need a head that the teacher does not have.

    Returns:
        the count of rows, the seconds that the teacher took, and the reason why candidates were dropped, or None.
    """
    vocabulary = prepared.manifest.teacher.vocabulary
    head, why_not = _head(teacher, vocabulary)
    pilots: dict[str, TailPilot] = {}
    states: list[Tensor] = []
    total = sum(sample.rows for sample in samples)
    rows, seconds = 0, 0.0
    deadline = time.monotonic() + 60 * settings.minutes
    for batch in _batches(prepared, samples):
        chunks = teacher.rows(batch, _wants(head is not None))
        while True:
            began = time.monotonic()
            chunk = next(chunks, None)
            seconds += time.monotonic() - began
            if chunk is None:
                break
            if not rows:
                head, why_not = _matching(teacher, head, chunk, why_not)
                pilots = _pilots(candidates, head, vocabulary)
            for name, pilot in pilots.items():
                listed_nK = listed_by(sparsifier_of(candidates[name].row), chunk, vocabulary)
                pilot.add(chunk.logits(), listed_nK, chunk.hidden_nD)
            if head is not None and chunk.hidden_nD is not None:
                states.append(chunk.hidden_nD.float().cpu())
            rows += len(chunk.gold_n)
        progress(Step(stage="pilot", done=rows, total=total))
        if time.monotonic() > deadline or rows >= FITTED_ROWS:
            break
    for name, candidate in list(candidates.items()):
        shape = candidate.row.tail.shape
        if candidate.row.tail.needs_hidden and head is None:
            del candidates[name]
        elif shape == "head" and head is not None:
            candidate.shared = head_tensors(head, torch.cat(states))
        elif name in pilots:
            candidate.shared = fitted(pilots[name], candidate.row)
    return rows, seconds, why_not


def _wants(needs_hidden: bool) -> Gives:
    return frozenset({LOGITS, HIDDEN} if needs_hidden else {LOGITS})


def _head(teacher: Teacher, vocabulary: int) -> tuple[LinearHead | None, str | None]:
    try:
        return teacher.head(vocabulary), None
    except ModelError as error:
        return None, str(error)


def _matching(
    teacher: Teacher, head: LinearHead | None, chunk: RowChunk, why_not: str | None
) -> tuple[LinearHead | None, str | None]:
    if head is None or chunk.hidden_nD is None:
        return None, why_not
    try:
        return head.matching(teacher.name, chunk.hidden_nD, chunk.logits()), None
    except ModelError as error:
        return None, str(error)


def _pilots(candidates: dict[str, Candidate], head: LinearHead | None, vocabulary: int) -> dict[str, TailPilot]:
    pilots = {}
    for name, candidate in candidates.items():
        shape = candidate.row.tail.shape
        if shape == "prior" or (shape == "sketch" and head is not None):
            pilots[name] = TailPilot(vocabulary, head if shape == "sketch" else None)
    return pilots


def _judge(
    prepared: Prepared,
    teacher: Teacher,
    samples: list[Any],
    candidates: dict[str, Candidate],
    progress: Progress,
) -> int:
    """Compare every candidate with the teacher on samples that no tail was fitted on; return the count of rows."""
    needs_hidden = any(candidate.row.tail.needs_hidden for candidate in candidates.values())
    for candidate in candidates.values():
        candidate.check = FidelityCheck(Decoder(candidate.row, candidate.shared), 1.0)
        candidate.keep = RowReducer.of(candidate.row, candidate.shared, None)
    rows = 0
    for batch in _batches(prepared, samples):
        for chunk in teacher.rows(batch, _wants(needs_hidden)):
            truth = Truth.of(chunk.logits(), prepared.manifest.teacher.vocabulary)
            for candidate in candidates.values():
                if candidate.check is None or candidate.keep is None:
                    continue
                began = time.monotonic()
                kept = candidate.keep(batch, chunk)
                candidate.seconds += time.monotonic() - began
                candidate.check.add(truth, kept)
            rows += len(chunk.gold_n)
            if rows >= JUDGED_ROWS:
                return rows
        progress(Step(stage="judge", done=rows, total=JUDGED_ROWS))
    return rows


def _line(name: str, each: Candidate, rows: int, judged: int, per_row: float, epochs: float) -> dict[str, Any]:
    """Return the figures of one candidate."""
    fidelity = each.check.take() if each.check is not None else Fidelity()
    # a mean over the bounded rows only would look too good
    figures = fidelity_of(fidelity) if not fidelity.unbounded else None
    info = sum(field.bytes for field in Decoder(each.row, each.shared).codec.fields.values())
    seconds = rows * (per_row + each.seconds / max(judged, 1))
    kl = {at: (figures or {}).get(at) for at in ("kl_t1", "kl_t2")}
    return {
        "name": name,
        "preset": each.preset,
        "bytes_per_row": info,
        "bytes": info * rows + sum(value.nbytes for value in each.shared.values()),
        "kl_t1": kl["kl_t1"],
        "kl_t2": kl["kl_t2"],
        "hours": seconds / 3600,
        "pays_from_students": math.ceil(seconds / (rows * per_row * epochs)),
    }


def _recommended(lines: list[dict[str, Any]]) -> str | None:
    """Return the name of the smallest candidate that is good enough at temperatures 1 and 2.

    Without such a candidate, return the one with the lowest sum of both KLs; None if no candidate has a finite KL.
    """
    bounded = [line for line in lines if line["kl_t1"] and line["kl_t2"]]
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
        name=settings.teacher, teacher=teacher.fingerprint(), data=prepared.manifest.data.fingerprint, rows=rows
    )
    with storage_errors(settings.out):
        fits = [(each.row, each.shared) for each in candidates.values()]
        keep_pilot(open_storage(settings.out), record, fits, kl)
