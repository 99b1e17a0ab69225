"""The loss of a run on scores: its objectives and the cross-entropy on labels, a mean over queries.

Axes: N documents, M queries, L lines of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from logitstore.train.objectives.rankings.losses import label_cross_entropy
from logitstore.train.objectives.rankings.ranked import Ranked


def ranking_loss(
    terms: Sequence[Any],
    student_N: Tensor,
    teacher_N: Tensor,
    gold_N: Tensor,
    counts_M: Tensor,
    weights_M: Tensor,
    gold_scale_M: Tensor | None,
    done: float,
) -> tuple[Tensor, Tensor]:
    """Return sum_m weights_m loss_m with a gradient, and float[1 + L, M] without: the losses, and those of each term.

    Args:
        terms: `RowTerm`s of a criterion; one without a method is the cross-entropy on labels.
        student_N: float, scores of the student.
        teacher_N: float, scores of the teacher.
        gold_N: int64, labels; -1 without one.
        counts_M: int64, documents of each query; they come query after query.
        weights_M: of the queries in the sum.
        gold_scale_M: factor of the cross-entropy of each query; None for 1 throughout.
        done: the share of the run that is over.
    """
    some = Ranked.of(student_N.float(), teacher_N, gold_N, counts_M)
    lines = []
    total_M = torch.zeros_like(weights_M)
    for term in terms:
        if term.method is None:
            loss_M = label_cross_entropy(some) * (1.0 if gold_scale_M is None else gold_scale_M)
        else:
            options = dict(term.options)
            if term.method.has_temperature:
                options["temperature"] = term.temperature.at(done)
            loss_M = term.method.function(some, **options)
        lines.append(loss_M.detach())
        total_M = total_M + term.weight_at(done) * loss_M
    return (weights_M * total_M).sum(), torch.stack([total_M.detach(), *lines])


def of_scores(
    output: Any,
    batch: Any,
    targets: Any,
    terms: Sequence[Any],
    weights_M: Tensor,
    gold_scale_M: Tensor | None,
    done: float,
) -> tuple[Tensor, Tensor, list[str]]:
    """Return the loss of a batch of queries with a gradient, and its lines [2 + L, M] without, with their names.

    Args:
        output: of the student; its logits are scores, one of each document.
        batch: the queries.
        targets: what the teacher says of them.
        terms, weights_M, gold_scale_M, done: see `ranking_loss`.
    """
    scores_N = output.logits.flatten(0, -2)[batch.rows, 0]
    with torch.autocast(scores_N.device.type, enabled=False):
        total, lines_LM = ranking_loss(
            terms, scores_N, targets.score_N, batch.gold, batch.counts, weights_M, gold_scale_M, done
        )
    counted_LM = torch.cat([torch.ones_like(lines_LM[:1]), lines_LM])
    return total, counted_LM, ["rows", "loss", *(term.label for term in terms)]
