"""A loss of all rows from the student's logits, a chunk at a time, with the gradient taken on the way.

Axes: R positions of a batch, N rows among them (n of a chunk), L lines of the loss, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from logitstore.targets.chunks import KERNEL_ELEMENTS, chunk_rows, groups, runs
from logitstore.train.objectives.kernels.weighted_sum import RowLoss, Weights


def from_logits(
    loss: RowLoss,
    student_RV: Tensor,
    rows_N: Tensor,
    weights: Weights = 1.0,
    *,
    in_place: bool = False,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """sum_n weights_n loss_n, and the lines of the loss.

    The loss of a row depends on the logits of its chunk alone, so the gradient is taken while a few rows are at hand in
    float32; the backward pass has nothing left to do but to scale it. Nothing of size [R, V] is made but the gradient, in the
    logits' dtype; with `in_place` it is written over the logits, and nothing at all is made.

    Args:
        loss: of a chunk of rows.
        student_RV: raw logits of all positions, any float dtype; reduced in float32 (float64 stays).
        rows_N: int64, the positions that have a row; each at most once.
        weights: of the rows in the sum.
        in_place: give up the logits. Whoever else needs them for a gradient is told so by PyTorch.
        chunk: rows at a time, for a loss of which any chunk will do; without it, what suits the device.

    Returns:
        a scalar, differentiable once with respect to `student_RV`, and float[1 + L, N] without a gradient.
    """
    size = chunk or chunk_rows(student_RV.shape[1], student_RV.device.type, KERNEL_ELEMENTS)
    leaf_RV = student_RV if torch.is_grad_enabled() else student_RV.detach()
    with torch.autocast(student_RV.device.type, enabled=False):
        total, lines_LN = _FromLogits.apply(  # type: ignore[no-untyped-call]
            leaf_RV, rows_N, weights, loss, in_place, size
        )
    return total, lines_LN


class _FromLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_RV: Tensor,
        rows_N: Tensor,
        weights: Weights,
        loss: RowLoss,
        in_place: bool,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        needs_gradient = ctx.needs_input_grad[0]
        logits_RV = student_RV.detach()
        gradient_RV = None
        if needs_gradient:
            gradient_RV = logits_RV if in_place else torch.empty_like(logits_RV)
            clear_others_(gradient_RV, rows_N)
        row_weights, ctx.peak = unit(weights) if student_RV.dtype == torch.float16 else (weights, 1.0)
        lines = []
        for some, places in groups(rows_N, loss.together) if loss.together else runs(rows_N, chunk):
            logits_nV = logits_RV[places]
            is_view = isinstance(places, slice) and gradient_RV is logits_RV
            work_nV = logits_nV if is_view and is_wide(logits_nV) else widened(logits_nV)
            lines.append(loss(work_nV, some, row_weights[some] if isinstance(row_weights, Tensor) else row_weights))
            if gradient_RV is not None and work_nV is not logits_nV:
                gradient_RV[places] = work_nV.to(gradient_RV.dtype)
        lines_LN = torch.cat(lines, 1) if lines else loss(widened(logits_RV[:0]), slice(0, 0), 1.0)
        ctx.mark_non_differentiable(lines_LN)
        ctx.gradient_RV = gradient_RV
        return weighted_sum(lines_LN[0], weights), lines_LN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        gradient_RV = taken(ctx, "gradient_RV")
        return scaled_(gradient_RV, outputs[0] * ctx.peak), None, None, None, None, None


def clear_others_(gradient_RV: Tensor, rows_N: Tensor) -> None:
    """Positions without a row have no gradient."""
    is_row_R = torch.zeros(len(gradient_RV), dtype=torch.bool, device=gradient_RV.device).index_fill_(0, rows_N, True)
    if gradient_RV.device.type == "cpu":
        gradient_RV.index_fill_(0, (~is_row_R).nonzero()[:, 0], 0)
    else:
        gradient_RV.masked_fill_(~is_row_R[:, None], 0)  # without asking the device how many there are


def unit(weights: Weights) -> tuple[Weights, Tensor | float]:
    """Weights of at most 1, and what they were divided by: in float16 a gradient times 1 / N would be lost."""
    if not isinstance(weights, Tensor):
        return 1.0, weights
    peak = weights.abs().amax().clamp(min=1e-30) if len(weights) else weights.new_ones(())
    return weights / peak, peak


def is_wide(value: Tensor) -> bool:
    """Whether it is worked on as it is."""
    return value.dtype in (torch.float32, torch.float64)


def widened(value: Tensor) -> Tensor:
    """A contiguous copy, float32 or float64."""
    return value.clone(memory_format=torch.contiguous_format) if is_wide(value) else value.float()


def weighted_sum(losses_N: Tensor, weights: Weights) -> Tensor:
    """sum_n weights_n loss_n."""
    if not isinstance(weights, Tensor):
        return losses_N.sum() * weights
    # a row that does not count may have an infinite loss
    return torch.where(weights != 0, losses_N * weights, 0.0).sum()


def taken(ctx: Any, name: str) -> Any:
    """What the forward pass left; it is scaled in place, so it can be had once."""
    if not hasattr(ctx, name):
        raise RuntimeError(
            "the gradient of this loss was taken already; compute the loss again for a second backward pass"
        )
    value = getattr(ctx, name)
    delattr(ctx, name)
    return value


def scaled_(gradient: Tensor | None, by: Tensor) -> Tensor | None:
    """gradient * by, in place; a look at the scale saves the pass where that waits for no device."""
    if gradient is None or (by.device.type == "cpu" and by.item() == 1):
        return gradient
    return gradient.mul_(by)
