"""A loss of all rows from the student's final hidden states: the head is part of the loss, and [R, V] never exists.

Axes: R positions of a batch, N rows among them (n of a block), L lines of the loss, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from logitstore.models.head import LinearHead
from logitstore.targets.chunks import BLOCK_ELEMENTS, KERNEL_ELEMENTS, chunk_rows
from logitstore.train.objectives.kernels.from_logits import is_wide, scaled_, taken, unit, weighted_sum, widened
from logitstore.train.objectives.kernels.weighted_sum import RowLoss, Weights

FLOAT16_BOOST = 256.0
"""By which gradients of float16 logits are enlarged: differences of probabilities below 6e-8 would be lost."""


VOCABULARY_SLICE = 1 << 13
"""Rows of the weight whose gradient is made at once where it is added up in another dtype."""


def from_hidden(
    loss: RowLoss,
    hidden_RD: Tensor,
    head: LinearHead,
    rows_N: Tensor,
    weights: Weights = 1.0,
    *,
    dtype: torch.dtype | None = None,
    block: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return sum_n weights_n loss_n and the lines of the loss; the same as `from_logits` of the head's logits.

    Block by block of rows, with Z = h W^T + b and G the gradient of the loss by multiplier Z, through the cap if there is one:

        dh = multiplier * G W,        dW = multiplier * G^T h,        db = multiplier * sum_n G_n

    all three while Z and G, which share their memory, are at hand. Row weights are put on the narrow side, h and dh, unless the
    loss compares rows with each other: then they belong into G.

    Args:
        loss: of a chunk of rows.
        hidden_RD: what the head takes, of all positions.
        head: of the student: its weight and bias are the parameters themselves.
        rows_N: int64, the positions that have a row; each at most once.
        weights: of the rows in the sum.
        dtype: of the matrix products, as under autocast; without it that of the hidden states.
        block: rows whose logits exist at once; without it, what suits the device.

    Returns:
        a scalar, differentiable once by the hidden states, weight and bias, and float[1 + L, N] without a gradient.
    """
    size = block or chunk_rows(len(head.weight_VD), hidden_RD.device.type, BLOCK_ELEMENTS)
    if loss.together:
        size = max(size // loss.together, 1) * loss.together
    leaves = (hidden_RD, head.weight_VD, head.bias_V)
    if not torch.is_grad_enabled():
        leaves = (hidden_RD.detach(), head.weight_VD.detach(), None if head.bias_V is None else head.bias_V.detach())
    with torch.autocast(hidden_RD.device.type, enabled=False):
        total, lines_LN = _FromHidden.apply(  # type: ignore[no-untyped-call]
            *leaves, rows_N, weights, loss, head, dtype or hidden_RD.dtype, size
        )
    return total, lines_LN


class _FromHidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_RD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        rows_N: Tensor,
        weights: Weights,
        loss: RowLoss,
        head: LinearHead,
        dtype: torch.dtype,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        narrow_VD = weight_VD.to(dtype)
        by_hidden_RD = torch.zeros_like(hidden_RD) if needs_hidden else None
        by_weight_VD: Tensor | None = None
        by_bias_V = torch.zeros_like(bias_V) if bias_V is not None and needs_bias else None
        boost = FLOAT16_BOOST if dtype == torch.float16 else 1.0
        row_weights, ctx.peak = unit(weights) if dtype == torch.float16 else (weights, 1.0)
        lines = []
        for first in range(0, len(rows_N), block):
            rows_n = rows_N[first : first + block]
            hidden_nD = hidden_RD[rows_n].to(dtype)
            own = row_weights[first : first + block] if isinstance(row_weights, Tensor) else row_weights
            inside, outside = (own, 1.0) if loss.together else (1.0, own)
            factor_n1 = (outside[:, None] if isinstance(outside, Tensor) else outside) * (head.multiplier / boost)
            logits_nV = hidden_nD @ narrow_VD.T
            lines.append(_to_gradient(logits_nV, loss, head, first, inside * boost))
            if by_hidden_RD is not None:
                by_hidden_RD[rows_n] = ((logits_nV @ narrow_VD) * factor_n1).to(hidden_RD.dtype)
            if needs_weight:
                scaled_nD = (hidden_nD * factor_n1).to(dtype)
                by_weight_VD = _plus_product(by_weight_VD, logits_nV, scaled_nD, weight_VD)
            if by_bias_V is not None:
                by_bias_V += (logits_nV * factor_n1).sum(0)
        lines_LN = (
            torch.cat(lines, 1) if lines else loss(hidden_RD.new_zeros(0, len(weight_VD)).float(), slice(0, 0), 1.0)
        )
        if needs_weight and by_weight_VD is None:
            by_weight_VD = torch.zeros_like(weight_VD)
        ctx.mark_non_differentiable(lines_LN)
        ctx.gradients = [by_hidden_RD, by_weight_VD, by_bias_V]
        return weighted_sum(lines_LN[0], weights), lines_LN

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *(scaled_(each, outputs[0] * ctx.peak) for each in taken(ctx, "gradients")), *(None,) * 6


def _to_gradient(logits_nV: Tensor, loss: RowLoss, head: LinearHead, first: int, scale: Weights) -> Tensor:
    """Return the lines of the loss of a block; write the gradient of their scaled sum by the cap's argument over h W^T."""
    lines = []
    chunk = loss.together or chunk_rows(logits_nV.shape[1], logits_nV.device.type, KERNEL_ELEMENTS)
    for start in range(0, len(logits_nV), chunk):
        own_nV = logits_nV[start : start + chunk]
        work_nV = head.from_products_(own_nV if is_wide(own_nV) else widened(own_nV))
        slope_nV = None
        if head.cap:
            work_nV.div_(head.cap).tanh_()
            slope_nV = 1 - work_nV.square()
            work_nV *= head.cap
        own_scale = scale[start : start + chunk] if isinstance(scale, Tensor) else scale
        lines.append(loss(work_nV, slice(first + start, first + start + len(own_nV)), own_scale))
        if slope_nV is not None:
            work_nV *= slope_nV
        if work_nV is not own_nV:
            own_nV.copy_(work_nV)
    return torch.cat(lines, 1)


def _plus_product(total_VD: Tensor | None, gradient_nV: Tensor, hidden_nD: Tensor, like_VD: Tensor) -> Tensor:
    """total + G.T h, added up in the weight's dtype; a narrower product is made a slice of the vocabulary at a time."""
    if like_VD.dtype == gradient_nV.dtype:
        return gradient_nV.T @ hidden_nD if total_VD is None else total_VD.addmm_(gradient_nV.T, hidden_nD)
    found_VD = torch.empty_like(like_VD) if total_VD is None else total_VD
    for first in range(0, len(found_VD), VOCABULARY_SLICE):
        product_vD = gradient_nV[:, first : first + VOCABULARY_SLICE].T @ hidden_nD
        own_vD = found_VD[first : first + VOCABULARY_SLICE]
        own_vD.copy_(product_vD) if total_VD is None else own_vD.add_(product_vD)
    return found_VD
