"""Samples through the teacher: batches in, answers about every row out.

Axes: B sequences, T tokens, N rows, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.core.types import Array
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.targets.rows import RowChunk, sent

Encode = Callable[[Tensor], dict[str, Tensor]]
"""A function that reduces the rows of a feature, float32[N, D], to the stored fields, on the teacher's device."""


FINITE = "finite"
"""Name of an extra field of a feature, bool[N]: True if the row is finite."""


def rows_of(seen: Mapping[str, Tensor], taps: Mapping[str, Encode], batch: TeacherBatch) -> dict[str, Tensor]:
    """Return the stored fields of the rows of a batch, named `<tap>/<field>`.

    Args:
        seen: features [B, T, D] by name.
        taps: functions that reduce the rows of each feature, by name.
        batch: gives the places of the rows.
    """
    kept: dict[str, Tensor] = {}
    for name, encode in taps.items():
        values_ND = seen[name].flatten(0, 1)[sent(batch.rows_N, seen[name].device)].float()
        fields = {FINITE: values_ND.isfinite().all(1)} | encode(values_ND)
        kept |= {f"{name}/{field}": value for field, value in fields.items()}
    return kept


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
    for batch in batches:
        with teacher.recording(list(taps or {})) as seen:
            chunks = [reduce(batch, chunk) for chunk in _timed(teacher.rows(batch, reduce.wants), watch)]
        targets = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        if taps:
            with watch("taps"):
                targets |= rows_of(seen, taps, batch)
        yield batch, _to_host(targets)


def _timed(chunks: Iterator[RowChunk], watch: Stopwatch) -> Iterator[RowChunk]:
    """Yield the chunks; count the time that each takes to come as the teacher's."""
    while True:
        with watch("forward"):
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


def ask_features(
    teacher: Teacher, batches: Iterable[TeacherBatch], taps: Mapping[str, Encode], watch: Stopwatch = NO_STOPWATCH
) -> Answers:
    """Yield reduced features only, in the form of `ask_rows`. A language model computes logits of the last position only."""
    for batch in batches:
        with watch("forward"):
            seen = teacher.features(batch.inputs, list(taps))
        with watch("taps"):
            kept = rows_of(seen, taps, batch)
        yield batch, _to_host(kept)


def _to_host(targets: dict[str, Tensor]) -> Callable[[], dict[str, Array]]:
    """Start the copy to the host; return a function that waits for it and returns the arrays."""
    if next(iter(targets.values())).device.type != "cuda":
        return lambda: {name: value.cpu().numpy() for name, value in targets.items()}
    copies = {
        name: torch.empty(value.shape, dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
        for name, value in targets.items()
    }
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record(torch.cuda.current_stream(next(iter(targets.values())).device))

    def wait() -> dict[str, Array]:
        copied.synchronize()
        return {name: value.numpy() for name, value in copies.items()}

    return wait
