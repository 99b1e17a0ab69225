"""Any loss per row, computed a few rows at a time, so that float32 copies of `[rows, V]` never pile up.

Axes: R positions of a batch, N rows among them, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from logitstore.targets.chunks import chunk_rows

LossOfRows = Callable[[Tensor, slice], Tensor]
"""(student logits of some rows [n, V], which rows of the N those are) -> loss [n], each from its own row alone."""


def rowwise(loss: LossOfRows, student_RV: Tensor, rows_N: Tensor, chunk: int | None = None) -> Tensor:
    """`loss` of the rows of `student_RV`, chunk by chunk.

    The gradient is taken together with the loss, while a chunk's copies are alive: since the loss of row i depends on the
    logits of row i alone, d(sum_i g_i loss_i)/dz_i = g_i dloss_i/dz_i, and the backward pass only has to scale what the
    forward pass left. Beyond the logits and their gradient, in the logits' own dtype, nothing of size [N, V] is kept.

    Args:
        loss: called on at most `chunk` rows at a time.
        student_RV: logits of all positions.
        rows_N: int64, the positions that have a row; each at most once.
        chunk: rows at a time; without it, what suits the device.

    Returns:
        float[N]. Differentiable once with respect to `student_RV`.
    """
    size = chunk or chunk_rows(student_RV.shape[1], student_RV.device.type)
    out: Tensor = _Rowwise.apply(student_RV, rows_N, loss, size)  # type: ignore[no-untyped-call]
    return out


class _Rowwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student_RV: Tensor, rows_N: Tensor, loss: LossOfRows, chunk: int) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient_RV = torch.zeros_like(student_RV) if needs_gradient else None
        losses = []
        for first in range(0, len(rows_N), chunk):
            some = slice(first, min(first + chunk, len(rows_N)))
            logits_nV = student_RV.detach()[rows_N[some]].requires_grad_(needs_gradient)
            with torch.set_grad_enabled(needs_gradient):
                loss_n = loss(logits_nV, some)
                total = loss_n.sum()
            losses.append(loss_n.detach())
            if gradient_RV is not None:
                (gradient_nV,) = torch.autograd.grad(total, logits_nV)
                gradient_RV.index_copy_(0, rows_N[some], gradient_nV)
        ctx.save_for_backward(gradient_RV, rows_N)
        return torch.cat(losses) if losses else student_RV.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (outer_N,) = outputs
        gradient_RV, rows_N = ctx.saved_tensors
        if gradient_RV is None:
            return None, None, None, None
        outer_R = outer_N.new_zeros(len(gradient_RV)).index_copy_(0, rows_N, outer_N)
        return gradient_RV * outer_R[:, None].to(gradient_RV.dtype), None, None, None
