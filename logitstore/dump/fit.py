"""The pilot: some samples, spread over the data, on which everything that all rows share is fitted before the first part.

Axes: N rows, D channels, K listed, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from logitstore.core.progress import Progress, Step
from logitstore.dump.ask import announced, asked
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.teachers.teacher import Batches, Teacher, TeacherBatch
from logitstore.errors import ModelError
from logitstore.format.manifest import Manifest
from logitstore.format.needs import HIDDEN, LOGITS, Wants, wants_of
from logitstore.format.row import RowInfo
from logitstore.format.tap import directions_of
from logitstore.models.head import LinearHead
from logitstore.models.moments import Moments
from logitstore.targets.rows import RowChunk


def fit_tail(
    manifest: Manifest, samples: list[Any], batches: Batches, teacher: Teacher, progress: Progress
) -> dict[str, Tensor]:
    """Fit the tail; return the tensors of its shared file (docs/format.md), none for a tail that shares nothing.

    Args:
        manifest: manifest of the new cache.
        samples: samples of the pilot.
        batches: makes batches of the samples.
        teacher: answers about the samples.
        progress: receives the steps.

    Raises:
        ModelError: the tail needs the head of a teacher whose head cannot be used.
    """
    shape, vocabulary = manifest.tail.shape, manifest.teacher.vocabulary
    if not manifest.tail.is_fitted:
        return {}
    head = teacher.head(vocabulary) if manifest.tail.needs_hidden else None
    chunks = _pilot_chunks(manifest, samples, batches, teacher, progress)
    if head is not None:
        first = next(chunks)
        head, chunks = _matching(manifest, teacher, head, first), chain([first], chunks)
    if head is not None and shape == "head":
        return head_tensors(
            head, torch.cat([chunk.hidden_nD.float().cpu() for chunk in chunks if chunk.hidden_nD is not None])
        )
    pilot, sparsifier = TailPilot(vocabulary, head), sparsifier_of(manifest.row)
    for chunk in chunks:
        pilot.add(chunk.logits(), listed_by(sparsifier, chunk, vocabulary), chunk.hidden_nD)
    return fitted(pilot, manifest.row)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When `fit_each` stops asking: after so many rows, or so many seconds.

    Attributes:
        total: count of the rows of all batches.
    """

    rows: int
    seconds: float
    total: int


@dataclass
class Fits:
    """The shared tensors of several kinds of row, fitted on the same rows.

    Attributes:
        shared: by the name of the kind. What needs a head that the teacher does not have is left out.
        rows: count of rows that they were fitted on.
        seconds: time that the teacher took.
        why_not: why the teacher's head cannot be used, or None.
    """

    shared: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    rows: int = 0
    seconds: float = 0.0
    why_not: str | None = None


def fit_each(
    kinds: dict[str, RowInfo],
    batches: Iterable[TeacherBatch],
    teacher: Teacher,
    vocabulary: int,
    limits: Limits,
    progress: Progress,
) -> Fits:
    """Fit the tails of several kinds of row in one pass of the teacher.

    Args:
        kinds: what a row may hold, by name.
        batches: those of the pilot.
        teacher: answers about them.
        vocabulary: count of its tokens.
        limits: when to stop.
        progress: receives the steps.
    """
    fits = Fits()
    head, fits.why_not = _head(teacher, vocabulary)
    pilots: dict[str, TailPilot] = {}
    states: list[Tensor] = []
    deadline = time.monotonic() + limits.seconds
    for batch in announced(teacher, batches, wants(head is not None)):
        began = time.monotonic()
        _, chunks = asked(teacher, batch, wants(head is not None), vocabulary)
        while True:
            chunk = next(chunks, None)
            fits.seconds += time.monotonic() - began
            if chunk is None:
                break
            if not fits.rows:
                head, fits.why_not = _head_of(teacher, head, chunk, fits.why_not)
                pilots = _pilots(kinds, head, vocabulary)
            for name, pilot in pilots.items():
                listed_nK = listed_by(sparsifier_of(kinds[name]), chunk, vocabulary)
                pilot.add(chunk.logits(), listed_nK, chunk.hidden_nD)
            if head is not None and chunk.hidden_nD is not None:
                states.append(chunk.hidden_nD.float().cpu())
            fits.rows += len(chunk.gold_n)
            began = time.monotonic()
        progress(Step(stage="pilot", done=fits.rows, total=limits.total))
        if time.monotonic() > deadline or fits.rows >= limits.rows:
            break
    for name, row in kinds.items():
        if name in pilots:
            fits.shared[name] = fitted(pilots[name], row)
        elif row.tail.shape == "head" and head is not None:
            fits.shared[name] = head_tensors(head, torch.cat(states))
        elif not row.tail.needs_hidden:
            fits.shared[name] = {}
    return fits


def wants(needs_hidden: bool) -> Wants:
    """Return what a pilot asks a teacher for."""
    return Wants(frozenset({LOGITS, HIDDEN} if needs_hidden else {LOGITS}))


def _head(teacher: Teacher, vocabulary: int) -> tuple[LinearHead | None, str | None]:
    try:
        return teacher.head(vocabulary), None
    except ModelError as error:
        return None, str(error)


def _head_of(
    teacher: Teacher, head: LinearHead | None, chunk: RowChunk, why_not: str | None
) -> tuple[LinearHead | None, str | None]:
    """Return the head if it gives the teacher's own logits, else why not."""
    if head is None or chunk.hidden_nD is None:
        return None, why_not
    try:
        return head.matching(teacher.name, chunk.hidden_nD, chunk.logits()), None
    except ModelError as error:
        return None, str(error)


def _pilots(kinds: dict[str, RowInfo], head: LinearHead | None, vocabulary: int) -> dict[str, TailPilot]:
    """Return the empty sums of each kind of row that has some."""
    pilots = {}
    for name, row in kinds.items():
        shape = row.tail.shape
        if shape == "prior" or (shape == "sketch" and head is not None):
            pilots[name] = TailPilot(vocabulary, head if shape == "sketch" else None)
    return pilots


def _pilot_chunks(
    manifest: Manifest, samples: list[Any], batches: Batches, teacher: Teacher, progress: Progress
) -> Iterator[RowChunk]:
    """What the teacher says about the pilot samples."""
    rows, wants = 0, wants_of(manifest.row, teacher.gives)
    for batch in announced(teacher, batches(samples), wants):
        for chunk in asked(teacher, batch, wants, manifest.teacher.vocabulary)[1]:
            rows += len(chunk.gold_n)
            yield chunk
        progress(Step(stage="pilot", done=rows, total=manifest.tail.pilot_rows))


def _matching(manifest: Manifest, teacher: Teacher, head: LinearHead, chunk: RowChunk) -> LinearHead:
    """Return the teacher's head after comparing it with the teacher's own logits of a few rows. Raises ModelError."""
    if chunk.hidden_nD is None:
        raise ValueError("this tail needs the teacher's hidden states")
    head = head.matching(teacher.name, chunk.hidden_nD, chunk.logits())
    if manifest.tail.width not in (None, head.width):
        raise ModelError(
            f"{teacher.name}: its head takes {head.width} channels, its configuration says {manifest.tail.width}. "
            "Use --preset small or topk."
        )
    return head


def listed_by(sparsifier: Any, chunk: RowChunk, vocabulary: int) -> Tensor:
    """int64[N, K]: what a sparsifier lists of some rows; empty slots are the vocabulary."""
    kept = sparsifier(chunk.logits(), chunk.gold_n.clamp(min=0))
    listed_nK: Tensor = kept["ids"].masked_fill(torch.isneginf(kept["logprobs"]), vocabulary)
    return listed_nK


def fitted(pilot: TailPilot, row: RowInfo) -> dict[str, Tensor]:
    """Return the tensors of the sketch or the prior that was fitted on the pilot."""
    return pilot.sketch(row.tail.bytes or 0) if row.tail.shape == "sketch" else {"prior": pilot.prior()}


def head_tensors(head: LinearHead, hidden_ND: Tensor) -> dict[str, Tensor]:
    """Return the tensors of a tail that decodes hidden states: the head, and the statistics of the channels."""
    deviation_D = hidden_ND.std(0, correction=0)
    return {
        "weight": head.scaled_weight_VD.cpu().contiguous(),
        "base": head.base_V.cpu().contiguous(),
        "bias": torch.zeros(head.vocabulary),
        "cap": torch.tensor([head.cap]),
        "mean": hidden_ND.mean(0),
        "std": floored(deviation_D),
    }


def floored(deviation_D: Tensor) -> Tensor:
    """Return the standard deviations of channels with a lower bound: 1% of their root mean square.

    A channel that hardly varies in the pilot may vary later, and one scale serves the whole row.
    """
    return deviation_D.clamp(min=max(0.01 * float(deviation_D.square().mean().sqrt()), 1e-6))


def moments_for(codec: str, width: int) -> Moments:
    """Return empty sums of the kind that a codec needs; the rows of the pilot are added to them."""
    return Moments(width, has_products=directions_of(codec) > 0)


def shared_of(codec: str, moments: Moments) -> dict[str, Tensor]:
    """Return the arrays of the tap's shared file (docs/format.md, "taps/")."""
    mean_D = moments.mean_D.float()
    if count := directions_of(codec):
        directions_RD, _ = moments.directions(count)
        return {"mean": mean_D, "directions": directions_RD.float().contiguous()}
    return {"mean": mean_D, "std": floored(moments.deviation_D.float())}
