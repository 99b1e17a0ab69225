"""Measure how near a student is to the text alone, where there is no teacher's answer to compare it with.

Axes: N rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.objectives import cross_entropy
from logitstore.train.objectives.kernels.rowwise import rowwise
from logitstore.train.task import same


@dataclass(frozen=True, kw_only=True)
class TextEvaluation:
    """A text evaluation holds means over rows, in nats.

    Attributes:
        rows: number of tokens that were judged, one for each token of the student's own; in a cache of chosen positions also
            those of positions without a row.
        cross_entropy, perplexity: of the student on the tokens that follow.
        nats_per_byte: the sum of the losses over the bytes of the text that these tokens spell in UTF-8. Students with
            different tokenizers can be compared by it. None where the text itself is not read.
    """

    rows: int
    cross_entropy: float
    perplexity: float
    nats_per_byte: float | None


@torch.no_grad()
def evaluate_text(
    student: Callable[..., Any],
    batches: Iterable[Batch],
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = lambda sums: sums,
    *,
    size: int | None,
) -> TextEvaluation:
    """Evaluate a student, in evaluation mode, on some batches.

    Args:
        student: a model, or a function that runs one; gives `.logits` [B, T, V].
        batches: the batches to evaluate on.
        device: where the student is.
        reduce: adds the sums of several processes.
        size: bytes of the text that the rows of all processes spell; None where it is not known.
    """
    sums = torch.zeros(2, dtype=torch.float64)
    for each in batches:
        batch = each.to(device)
        logits_RV: Tensor = student(**batch.model_inputs()).logits.flatten(0, 1)
        asked = [(batch.rows, batch.gold, batch.row_mask)]
        if beside := batch.unanswered:
            asked.append((beside["rows"], beside["gold"], beside["mask"]))
        for rows_N, gold_N, mask_N in asked:
            losses_N = rowwise(lambda logits_nV, some: cross_entropy(logits_nV, gold_N[some]), logits_RV, rows_N)  # noqa: B023
            counted_N = torch.where(mask_N, losses_N.double(), 0.0)
            sums += torch.stack([counted_N.sum(), mask_N.double().sum()]).cpu()
    total, rows = (reduce(sums.to(device)).cpu() if device.type != "mps" else sums).tolist()
    mean = total / max(rows, 1.0)
    return TextEvaluation(
        rows=int(rows),
        cross_entropy=mean,
        perplexity=math.exp(min(mean, 700)),
        nats_per_byte=total / size if size else None,
    )


def judge_text(
    run: Callable[..., Any],
    held_out: BatchStream,
    _decode: Callable[[Batch], Any],
    device: torch.device,
    reduce: Callable[[Tensor], Tensor] = same,
) -> TextEvaluation:
    """Judge a student on texts without a teacher's answers; a `logitstore.train.task.Judge`."""
    return evaluate_text(run, held_out, device, reduce, size=held_out.text_bytes)
