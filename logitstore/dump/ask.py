"""Samples through the teacher: batches in, answers about every row out.

Axes: B sequences, T tokens, N rows, D channels.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.core.types import Array
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.sparsify.summary import Summary
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.format.needs import ITS_LOGITS, Wants
from logitstore.targets.rows import RowChunk, sent

Encode = Callable[[Tensor], dict[str, Tensor]]
"""A function that reduces the rows of a feature, float32[N, D], to the stored fields, on the teacher's device."""


FINITE = "finite"
"""Name of an extra field of a feature, bool[N]: True if the row is finite."""


def rows_of(
    seen: Mapping[str, Tensor], taps: Mapping[str, Encode], batch: TeacherBatch, teacher: Teacher
) -> dict[str, Tensor]:
    """Return the stored fields of the rows of a batch, named `<tap>/<field>`.

    Args:
        seen: features [B, T, D] by name.
        taps: functions that reduce the rows of each feature, by name.
        batch: gives the places of the rows.
        teacher: says which features have a vector for each place of a sample, instead of each row.
    """
    kept: dict[str, Tensor] = {}
    for name, encode in taps.items():
        values_ND = seen[name].flatten(0, 1)
        if teacher.places(name) is None:
            values_ND = values_ND[sent(batch.rows_N, seen[name].device)].float()
        else:
            values_ND = values_ND[sent(batch.is_place(seen[name].shape[:2]), seen[name].device)].float()
        fields = {FINITE: values_ND.isfinite().all(1)} | encode(values_ND)
        kept |= {f"{name}/{field}": value for field, value in fields.items()}
    return kept


def entropies(chunks: Iterable[RowChunk], vocabulary: int) -> Array:
    """Return the entropies of the teacher's whole distributions, float32[N], nats."""
    return torch.cat([Summary.of(chunk.logits(), vocabulary).entropy_N for chunk in chunks]).cpu().numpy()


def announced(teacher: Teacher, batches: Iterable[TeacherBatch], wants: Wants) -> Iterator[TeacherBatch]:
    """Yield the batches in their order, each after the teacher was told of as many of the next as it takes."""
    waiting: deque[TeacherBatch] = deque()
    try:
        for batch in batches:
            teacher.expect(batch, wants)
            waiting.append(batch)
            while waiting and not teacher.takes_more:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for batch in waiting:
            teacher.forget(batch)


def asked(
    teacher: Teacher, batch: TeacherBatch, wants: Wants, vocabulary: int, watch: Stopwatch = NO_STOPWATCH
) -> tuple[TeacherBatch, Iterator[RowChunk]]:
    """Ask the teacher once about a batch. Return the batch of the rows that are kept, and what it says of them.

    Where its answers decide which rows are kept, the logits of all candidates exist until they are chosen, and those of the
    rows that are kept are copied.

    Args:
        vocabulary: count of the teacher's tokens.
        watch: times the stages.
    """
    choice = batch.choice
    if choice is None:
        return batch, _timed(teacher.rows(batch, wants), watch)
    chunks = list(_timed(teacher.rows(batch, wants), watch))
    with watch("entropy"):
        kept_M = choice.kept(entropies(chunks, vocabulary))
    return choice.narrowed(kept_M), _taken(chunks, torch.from_numpy(kept_M))


def _taken(chunks: list[RowChunk], kept_M: Tensor) -> Iterator[RowChunk]:
    """Yield some rows of chunks, as many at a time as a chunk had. Their logits are copied; the chunks are given up."""
    size = max(len(chunk.gold_n) for chunk in chunks)
    starts = torch.tensor([chunk.span.start for chunk in chunks])
    rows = kept_M.tensor_split(torch.searchsorted(kept_M, starts[1:]))
    places = [own_m - start for own_m, start in zip(rows, starts, strict=True)]
    gold_M = _joined([chunk.gold_n for chunk in chunks], places)
    logits_MV = _joined([chunk.logits() for chunk in chunks], places)
    hidden = [chunk.hidden_nD for chunk in chunks if chunk.hidden_nD is not None]
    hidden_MD = _joined(hidden, places) if hidden else None
    chunks.clear()
    hidden.clear()
    for first in range(0, len(kept_M), size):
        span = slice(first, min(first + size, len(kept_M)))
        yield RowChunk(
            span=span,
            gold_n=gold_M[span],
            logits_nV=logits_MV[span],
            hidden_nD=None if hidden_MD is None else hidden_MD[span],
        )


def _joined(values: list[Tensor], places: list[Tensor]) -> Tensor:
    """Return some rows of several tensors, one after the other."""
    return torch.cat([value[own_m.to(value.device)] for value, own_m in zip(values, places, strict=True)])


Answers = Iterator[tuple[TeacherBatch, Callable[[], dict[str, Array]]]]
"""Pairs of a batch and a function that waits for the batch's arrays and returns them."""


def ask_rows(
    teacher: Teacher,
    reduce: RowReducer,
    batches: Iterable[TeacherBatch],
    watch: Stopwatch = NO_STOPWATCH,
    taps: Mapping[str, Encode] | None = None,
) -> Answers:
    """Ask the teacher about samples, batch by batch.

    Args:
        reduce: makes the targets, and says what it wants of the teacher.
        batches: of samples.
        watch: times the stages.
        taps: features that are given beside the targets, by name, and what is kept of them.

    Yields:
        the batch, and a function that waits for its targets and returns them as arrays on the host. Call it on another
        thread, so that the teacher continues at the same time.
    """
    for batch in announced(teacher, batches, reduce.wants):
        with teacher.recording(list(taps or {})) as seen:
            known, said = asked(teacher, batch, reduce.wants, reduce.vocabulary, watch)
            chunks = [reduce(known, chunk) for chunk in said]
        targets = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        if taps:
            with watch("taps"):
                targets |= rows_of(seen, taps, known, teacher)
        yield known, _to_host(targets)


def _timed(chunks: Iterator[RowChunk], watch: Stopwatch) -> Iterator[RowChunk]:
    """Yield the chunks; count the time that each takes to come as the teacher's."""
    while True:
        with watch("forward"):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def ask_features(
    teacher: Teacher,
    batches: Iterable[TeacherBatch],
    taps: Mapping[str, Encode],
    vocabulary: int,
    watch: Stopwatch = NO_STOPWATCH,
) -> Answers:
    """Yield reduced features only, in the form of `ask_rows`. A language model computes logits of the last position only,
    unless they decide which rows are kept.

    Args:
        vocabulary: count of the teacher's tokens.
    """
    for batch in batches:
        known = batch
        if batch.choice is None:
            with watch("forward"):
                seen = teacher.features(batch.inputs, list(taps))
        else:
            with teacher.recording(list(taps)) as seen:
                known, _ = asked(teacher, batch, ITS_LOGITS, vocabulary, watch)
        with watch("taps"):
            kept = rows_of(seen, taps, known, teacher)
        yield known, _to_host(kept)


def _to_host(targets: dict[str, Tensor]) -> Callable[[], dict[str, Array]]:
    """Start the copy to the host; return a function that waits for it and returns the arrays."""
    devices = {value.device for value in targets.values()}  # features of a spread teacher come from several
    if any(device.type != "cuda" for device in devices):
        return lambda: {name: value.cpu().numpy() for name, value in targets.items()}
    copies = {
        name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
        for name, value in targets.items()
    }
    copied = [torch.cuda.current_stream(device).record_event() for device in devices]

    def wait() -> dict[str, Array]:
        for event in copied:
            event.synchronize()
        return {name: value.numpy() for name, value in copies.items()}

    return wait
