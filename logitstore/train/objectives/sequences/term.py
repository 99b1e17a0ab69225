"""An objective on whole samples in a run: what it reads of the cache, and its loss with a gradient by way of the rows.

The gradient by the logits of a row is that of the row's cross-entropy, times the derivative of the loss by the logprob of the
row's sample. So the losses of rows and their gradients come from the kernels that every other objective uses: once without a
gradient, for the sums over samples, and once with the weights that follow from these. The student itself runs once.

Axes: N rows, M samples, S samples of the cache, L lines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from logitstore.core.methods import method_of
from logitstore.train.objectives.sequences.preferences import preferred
from logitstore.train.objectives.sequences.sequences import Sequences

OfRows = Callable[[Tensor, bool], tuple[Tensor, Tensor]]
"""Gives the weighted sum of the cross-entropies of N rows, and as its first line each of them; with a gradient where it is
asked for."""


class SequenceTerm(nn.Module):
    """An objective with its options, and what it needs to know of the samples of the cache."""

    score_S: Tensor
    reference_S: Tensor

    def __init__(self, name: str, options: dict[str, Any], score_S: Tensor, reference_S: Tensor) -> None:
        """
        Args:
            name: of the objective.
            options: of the objective.
            score_S: float64, what the data say of each sample.
            reference_S: float64, the teacher's logprob of the gold tokens of each, summed, nats.
        """
        super().__init__()
        self.name, self.options, self.method = name, options, method_of(name)
        # they follow from the cache, so no checkpoint holds them
        self.register_buffer("score_S", score_S, persistent=False)
        self.register_buffer("reference_S", reference_S, persistent=False)

    @property
    def labels(self) -> list[str]:
        """The names of the lines in the log, behind the loss: the mean logprob of a token; of pairs the share in which the
        student prefers what the score prefers."""
        return ["token_logprob", *(["preferred"] if self.method.in_pairs else [])]

    def of(self, student_M: Tensor, samples_M: Tensor, counts_M: Tensor) -> Sequences:
        """Return the samples of a batch. One that only fills up a step has the number -1 for each, and weighs nothing."""
        numbers_M = samples_M.clamp(min=0)
        return Sequences(
            student_M=student_M,
            reference_M=self.reference_S[numbers_M],
            counts_M=counts_M.to(student_M.dtype),
            score_M=self.score_S[numbers_M],
        )

    def loss(
        self, of_rows: OfRows, samples_M: Tensor, counts_M: Tensor, weights_M: Tensor, rows: int
    ) -> tuple[Tensor, Tensor]:
        """Return sum_m weights_m loss_m with a gradient, and float[1 + L, M] without: the losses, and the lines of `labels`.

        Args:
            of_rows: gives the cross-entropies of the batch's rows.
            samples_M: int64, numbers of the samples in the cache; whole pairs, where it compares these.
            counts_M: int64, number of rows of each sample; rows come sample after sample.
            weights_M: weights of the samples in the sum.
            rows: N, the sum of `counts_M`.
        """
        count, device = len(counts_M), counts_M.device
        owner_N = torch.repeat_interleave(torch.arange(count, device=device), counts_M, output_size=rows)
        with torch.no_grad():
            lines_LN = of_rows(torch.ones(rows, device=device), False)[1]
        student_M = torch.zeros(count, dtype=torch.float64, device=device)
        student_M = student_M.index_add_(0, owner_N, -lines_LN[0].double()).requires_grad_()
        with torch.enable_grad():
            some = self.of(student_M, samples_M, counts_M)
            loss_M = self.method.function(some, **self.options)
            total = torch.where(weights_M != 0, weights_M * loss_M, 0.0).sum()
            (slope_M,) = torch.autograd.grad(total, student_M)
        by_rows, _ = of_rows(-slope_M[owner_N].float(), True)
        lines = [loss_M.detach(), some.mean_M.detach()]
        if self.method.in_pairs:
            lines.append(preferred(some, self.method.needs_reference).to(student_M.dtype))
        # the value is that of the samples, the gradient that of their rows
        value = total.detach().to(by_rows.dtype)
        return by_rows + (value - by_rows.detach()), torch.stack(lines).float()
