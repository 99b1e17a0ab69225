"""Samples through the teacher: batches in, answers about every row out.

Axes: B sequences, T tokens, N rows (n of a chunk), D channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.core.progress import NO_STOPWATCH, Stopwatch
from logitstore.core.types import Array
from logitstore.dump.teachers.teacher import Teacher
from logitstore.targets.chunks import ASKED_ELEMENTS, chunk_rows, runs
from logitstore.targets.rows import RowBatch, RowChunk


@dataclass(frozen=True, kw_only=True)
class TeacherBatch(RowBatch):
    """Some samples as inputs of the teacher, with the places of their rows.

    Attributes:
        inputs: inputs of the teacher, by name. Texts: `input_ids` and `attention_mask`, int64[B, T], padded on the right.
            Images: `pixel_values`, float32[B, 3, H, W].
        rows_N: int64, places of the rows in the flattened [B * T], sample after sample; T is 1 for images.
    """

    inputs: dict[str, Tensor]
    rows_N: Tensor


Batches = Callable[[list[Any]], Iterable[TeacherBatch]]
"""A function that makes batches of samples."""


def ask(teacher: Teacher, batch: TeacherBatch, hidden: bool, watch: Stopwatch = NO_STOPWATCH) -> Iterator[RowChunk]:
    """Run the teacher on a batch; yield its answers about the rows, a few rows at a time."""
    hidden_RD = None
    with watch("forward"):
        if hidden:
            logits_BTV, hidden_BTD = teacher.logits_and_hidden(batch.inputs)
            hidden_RD = hidden_BTD.flatten(0, 1)
        else:
            logits_BTV = teacher.logits(batch.inputs)
    flat_RV = logits_BTV.flatten(0, 1)
    rows_N = batch.rows_N.to(flat_RV.device)
    for span, places in runs(rows_N, chunk_rows(flat_RV.shape[1], flat_RV.device.type, ASKED_ELEMENTS)):
        yield RowChunk(
            span=span,
            logits_nV=flat_RV[places],
            hidden_nD=None if hidden_RD is None else hidden_RD[places],
            gold_n=batch.gold_N[span].to(flat_RV.device),
        )


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
        values_ND = seen[name].flatten(0, 1)[batch.rows_N.to(seen[name].device)].float()
        fields = {FINITE: values_ND.isfinite().all(1)} | encode(values_ND)
        kept |= {f"{name}/{field}": value for field, value in fields.items()}
    return kept


Reduce = Callable[[TeacherBatch, RowChunk], dict[str, Tensor]]
"""A function that reduces a few rows to their targets."""


Answers = Iterator[tuple[TeacherBatch, Callable[[], dict[str, Array]]]]
"""Pairs of a batch and a function that waits for the batch's arrays and returns them."""


def ask_rows(
    teacher: Teacher,
    reduce: Reduce,
    batches: Iterable[TeacherBatch],
    hidden: bool = False,
    watch: Stopwatch = NO_STOPWATCH,
    taps: Mapping[str, Encode] | None = None,
) -> Answers:
    """Ask the teacher about samples, batch by batch.

    Args:
        teacher: the teacher to ask.
        reduce: makes the targets.
        batches: batches of samples.
        hidden: True if `reduce` needs the final hidden states.
        watch: measures the time of each stage.
        taps: functions that reduce the features stored next to the targets, by name.

    Yields:
        the batch, and a function that waits for its targets and returns them as arrays on the host. Call it on another
        thread, so that the teacher continues at the same time.
    """
    for batch in batches:
        with teacher.recording(list(taps or {})) as seen:
            chunks = [reduce(batch, chunk) for chunk in ask(teacher, batch, hidden, watch)]
        targets = {name: torch.cat([chunk[name] for chunk in chunks]) for name in chunks[0]}
        if taps:
            with watch("taps"):
                targets |= rows_of(seen, taps, batch)
        yield batch, _to_host(targets)


def ask_features(
    teacher: Teacher, batches: Iterable[TeacherBatch], taps: Mapping[str, Encode], watch: Stopwatch = NO_STOPWATCH
) -> Answers:
    """Yield reduced features only, in the same form as `score`. A language model computes logits of the last position only."""
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
