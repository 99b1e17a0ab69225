"""The pilot: some samples, spread over the data, on which everything that all rows share is fitted before the first part.

Axes: N rows, D channels, K listed, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step
from logitstore.dump.ask import announced, asked
from logitstore.dump.sparsify.directions import DIRECTION_ROWS, JUDGED, Directions
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.teachers.teacher import Batches, Teacher
from logitstore.errors import ModelError
from logitstore.format.manifest import Manifest
from logitstore.format.needs import HIDDEN, ITS_LOGITS, LOGITS, Wants, wants_of
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
        ModelError: the tail needs the head of a teacher whose head cannot be used; a sketch takes the logits then.
    """
    shape, vocabulary = manifest.tail.shape, manifest.teacher.vocabulary
    if not manifest.tail.is_fitted:
        return {}
    wants = wants_of(manifest.row, teacher.gives)
    chunks = _pilot_chunks(manifest, samples, batches, teacher, wants, progress)
    head, directions = None, None
    if manifest.tail.needs_hidden:
        try:
            head, chunks = _with_head(manifest, teacher, chunks)
        except ModelError:
            if shape == "head":
                raise
            chunks.close()
            directions = _directions(samples, batches, teacher, vocabulary, progress)
            chunks = _pilot_chunks(manifest, samples, batches, teacher, ITS_LOGITS, progress)
    if head is not None and shape == "head":
        return head_tensors(
            head, torch.cat([chunk.hidden_nD.float().cpu() for chunk in chunks if chunk.hidden_nD is not None])
        )
    pilot, sparsifier = TailPilot(vocabulary, directions.head if directions else head), sparsifier_of(manifest.row)
    for chunk in chunks:
        pilot.add(chunk.logits(), listed_by(sparsifier, chunk, vocabulary), _hidden(chunk, directions))
    return fitted(pilot, manifest.row, directions)


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
        shared: by the name of the kind. What needs a head that the teacher does not have is left out; a sketch takes the
            logits then.
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
    samples: list[Any],
    batches: Batches,
    teacher: Teacher,
    vocabulary: int,
    limits: Limits,
    progress: Progress,
) -> Fits:
    """Fit the tails of several kinds of row in one pass of the teacher.

    Args:
        kinds: what a row may hold, by name.
        samples: those of the pilot.
        batches: makes batches of them.
        teacher: answers about them.
        vocabulary: count of its tokens.
        limits: when to stop.
        progress: receives the steps.
    """
    fits = Fits()
    head, fits.why_not = _checked_head(teacher, vocabulary, samples, batches)
    directions = None
    if head is None and any(row.tail.shape == "sketch" for row in kinds.values()):
        directions = _directions(samples, batches, teacher, vocabulary, progress)
    pilots = _pilots(kinds, directions.head if directions else head, vocabulary)
    states: list[Tensor] = []
    deadline = time.monotonic() + limits.seconds
    for batch in announced(teacher, batches(samples), wants(head is not None)):
        began = time.monotonic()
        _, chunks = asked(teacher, batch, wants(head is not None), vocabulary)
        while True:
            chunk = next(chunks, None)
            fits.seconds += time.monotonic() - began
            if chunk is None:
                break
            hidden_nD = _hidden(chunk, directions)
            for name, pilot in pilots.items():
                listed_nK = listed_by(sparsifier_of(kinds[name]), chunk, vocabulary)
                pilot.add(chunk.logits(), listed_nK, hidden_nD)
            if head is not None and chunk.hidden_nD is not None:
                states.append(chunk.hidden_nD.float().cpu())
            fits.rows += len(chunk.gold_n)
            began = time.monotonic()
        progress(Step(stage="pilot", done=fits.rows, total=limits.total))
        if time.monotonic() > deadline or fits.rows >= limits.rows:
            break
    for name, row in kinds.items():
        if name in pilots:
            fits.shared[name] = fitted(pilots[name], row, directions)
        elif row.tail.shape == "head" and head is not None:
            fits.shared[name] = head_tensors(head, torch.cat(states))
        elif not row.tail.needs_hidden:
            fits.shared[name] = {}
    return fits


def wants(needs_hidden: bool) -> Wants:
    """Return what a pilot asks a teacher for."""
    return Wants(frozenset({LOGITS, HIDDEN} if needs_hidden else {LOGITS}))


def _checked_head(
    teacher: Teacher, vocabulary: int, samples: list[Any], batches: Batches
) -> tuple[LinearHead | None, str | None]:
    """Return the head if it gives the teacher's own logits of one sample, else why not."""
    try:
        head = teacher.head(vocabulary)
        for batch in announced(teacher, batches(samples[:1]), wants(True)):
            for chunk in asked(teacher, batch, wants(True), vocabulary)[1]:
                if chunk.hidden_nD is not None:
                    head = head.matching(teacher.name, chunk.hidden_nD, chunk.logits())
        return head, None
    except ModelError as error:
        return None, str(error)


def _directions(
    samples: list[Any], batches: Batches, teacher: Teacher, vocabulary: int, progress: Progress
) -> Directions:
    """Return the directions of the logits of rows that are spread over the pilot: of some samples every n-th row."""
    some = [samples[place] for place in spread(len(samples), sum(each.rows for each in samples), 4 * DIRECTION_ROWS)]
    step = max(sum(each.rows for each in some) // DIRECTION_ROWS, 1)
    taken, seen = [], 0
    for batch in announced(teacher, batches(some), ITS_LOGITS):
        for chunk in asked(teacher, batch, ITS_LOGITS, vocabulary)[1]:
            logits_nV = chunk.logits()
            taken.append(logits_nV[-seen % step :: step, :vocabulary].clone())
            seen += len(logits_nV)
    found = Directions.of(torch.cat(taken)[: DIRECTION_ROWS * JUDGED // (JUDGED - 1)], vocabulary)
    note = f"no head explains the logits, so {found.head.width:,} directions of them stand for it"
    if found.left_out is not None:
        first, second = found.left_out
        note += f"; what they leave out costs {first:.2g} nats at temperature 1 and {second:.2g} at 2"
    progress(Step(stage="directions", done=1, total=1, note=note))
    return found


def _hidden(chunk: RowChunk, directions: Directions | None) -> Tensor | None:
    return chunk.hidden_nD if directions is None else directions.hidden(chunk.logits())


def _pilots(kinds: dict[str, RowInfo], head: LinearHead | None, vocabulary: int) -> dict[str, TailPilot]:
    """Return the empty sums of each kind of row that has some."""
    pilots = {}
    for name, row in kinds.items():
        shape = row.tail.shape
        if shape == "prior" or (shape == "sketch" and head is not None):
            pilots[name] = TailPilot(vocabulary, head if shape == "sketch" else None)
    return pilots


def _pilot_chunks(
    manifest: Manifest, samples: list[Any], batches: Batches, teacher: Teacher, wants: Wants, progress: Progress
) -> Generator[RowChunk]:
    """What the teacher says about the pilot samples."""
    rows = 0
    for batch in announced(teacher, batches(samples), wants):
        for chunk in asked(teacher, batch, wants, manifest.teacher.vocabulary)[1]:
            rows += len(chunk.gold_n)
            yield chunk
        progress(Step(stage="pilot", done=rows, total=manifest.tail.pilot_rows))


def _with_head(
    manifest: Manifest, teacher: Teacher, chunks: Generator[RowChunk]
) -> tuple[LinearHead, Generator[RowChunk]]:
    """Return the teacher's head after comparing it with the teacher's own logits of a few rows, and all chunks. Raises
    ModelError."""
    head = teacher.head(manifest.teacher.vocabulary)
    chunk = next(chunks)
    if chunk.hidden_nD is None:
        raise ModelError(f"{teacher.name}: it gives no hidden states.")
    head = head.matching(teacher.name, chunk.hidden_nD, chunk.logits())
    if manifest.tail.width not in (None, head.width):
        raise ModelError(
            f"{teacher.name}: its head takes {head.width} channels, its configuration says {manifest.tail.width}. "
            "Use --preset small or topk."
        )
    return head, (each for some in ([chunk], chunks) for each in some)


def listed_by(sparsifier: Any, chunk: RowChunk, vocabulary: int) -> Tensor:
    """int64[N, K]: what a sparsifier lists of some rows; empty slots are the vocabulary."""
    kept = sparsifier(chunk.logits(), chunk.gold_n.clamp(min=0))
    listed_nK: Tensor = kept["ids"].masked_fill(torch.isneginf(kept["logprobs"]), vocabulary)
    return listed_nK


def fitted(pilot: TailPilot, row: RowInfo, directions: Directions | None = None) -> dict[str, Tensor]:
    """Return the tensors of the sketch or the prior that was fitted on the pilot.

    Args:
        directions: what the coordinates of the rows are in, where logits stand for the head.
    """
    if row.tail.shape != "sketch":
        return {"prior": pilot.prior()}
    shared = pilot.sketch(row.tail.bytes or 0)
    return shared if directions is None else directions.of_logits(shared)


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
