"""The directions of logits: what stands for a head where a teacher gives logits and no head that explains them.

The logits of a linear head, less their mean in each row, lie in a space of at most as many dimensions as the hidden state has
channels. Their principal directions in some rows span that space, or the part of it where they vary most. Taken as the weights
of a head, and a row's products with them as its hidden state, they give the sketch all that it needs: as the directions are
orthonormal, the products are the coefficients by least squares.

Axes: N rows, D directions, R coefficients, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.errors import ModelError
from logitstore.models.head import LinearHead, overflow_advice
from logitstore.targets.shared import centred

DIRECTION_ROWS = 1024
"""Rows whose logits give the directions; they and the directions are held while the tail is fitted, V float32 each."""


JUDGED = 9
"""One row in so many is kept apart, to measure what the directions leave out."""


SMALLEST = 1e-9
"""Directions with less than this share of the largest variance are rounding errors of float32 and are left out."""


ROUNDING = 1e-12
"""Nor do those count that hold less than this share of the squares of the centred logits."""


@dataclass(frozen=True, eq=False)
class Directions:
    """The principal directions of centred logits.

    Attributes:
        head: orthonormal directions as its weights, float32[V, D], and the mean of the centred logits as its bias.
        rows: count of rows that they come from.
        left_out: mean KL, nats at temperatures 1 and 2, between the logits of rows that they do not come from and what the
            directions say of them; None without such rows.
    """

    head: LinearHead
    rows: int
    left_out: tuple[float, float] | None

    @classmethod
    def of(cls, logits_NV: Tensor, vocabulary: int) -> Directions:
        """Return the directions of raw logits, of which one row in JUDGED only judges them.

        Raises:
            ModelError: a row holds NaN or infinity, or there is one row only, or all rows are alike.
        """
        rows_NV = centred(logits_NV, vocabulary)
        if not rows_NV.isfinite().all():
            raise ModelError(f"the teacher gave logits that are no numbers. {overflow_advice(logits_NV.dtype)}")
        if rows_NV.device.type == "mps":
            rows_NV = rows_NV.cpu()  # eigenvectors are computed in float64, which this device does not have
        is_judge_N = torch.arange(len(rows_NV), device=rows_NV.device) % JUDGED == JUDGED - 1
        judged_nV, fitted_NV = rows_NV[is_judge_N], rows_NV[~is_judge_N]
        base_V, rounding = fitted_NV.mean(0), ROUNDING * float(fitted_NV.square().sum())
        fitted_NV -= base_V
        values_N, vectors_NN = torch.linalg.eigh(_products(fitted_NV))
        is_kept_N = values_N > max(SMALLEST * float(values_N.max()), rounding, 1e-30)
        if not is_kept_N.any():
            raise ModelError(
                "all rows of the pilot have the same logits, so nothing tells them apart. Use --preset topk."
            )
        scaled_ND = (vectors_NN[:, is_kept_N] * values_N[is_kept_N].rsqrt()).float()
        # products of float32 leave the weak directions a little oblique
        found_VD = torch.linalg.qr(fitted_NV.T @ scaled_ND).Q
        head = LinearHead(found_VD.to(logits_NV.device), bias_V=base_V.to(logits_NV.device))
        return cls(head, len(fitted_NV), _left_out(judged_nV, found_VD, base_V))

    def hidden(self, logits_NV: Tensor) -> Tensor:
        """float32[N, D]: the coordinates of raw logits, which the head takes as a hidden state."""
        rows_NV = centred(logits_NV, self.head.vocabulary)
        base_V = self.head.base_V.to(rows_NV.device)
        return (rows_NV - base_V) @ self.head.weight_VD.to(rows_NV.device)

    def of_logits(self, shared: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of a sketch that was fitted on `hidden` in the form in which it takes logits (docs/format.md)."""
        found_VD, base_V = self.head.weight_VD.cpu(), self.head.base_V.cpu()
        projection_DR = shared["projection"]
        return shared | {
            "mean": torch.zeros(0),
            "projection": torch.zeros(0, projection_DR.shape[1]),
            "logit_projection": (found_VD @ projection_DR).contiguous(),
            "logit_offset": (base_V @ found_VD + shared["mean"]) @ projection_DR,
        }


def _products(rows_NV: Tensor) -> Tensor:
    """Return the products of all rows with each other, float64[N, N]. In float32 they would hide the weak directions."""
    products_NN = rows_NV.new_zeros(len(rows_NV), len(rows_NV), dtype=torch.float64)
    for some_NV in torch.split(rows_NV, 1 << 14, 1):
        wide_NV = some_NV.double()
        products_NN += wide_NV @ wide_NV.T
    return products_NN


def _left_out(judged_nV: Tensor, found_VD: Tensor, base_V: Tensor) -> tuple[float, float] | None:
    if not len(judged_nV):
        return None
    said_nV = (judged_nV - base_V) @ found_VD @ found_VD.T + base_V
    kl = []
    for temperature in (1.0, 2.0):
        true_nV, own_nV = (torch.log_softmax(each / temperature, -1) for each in (judged_nV, said_nV))
        kl.append(max(float((true_nV.exp() * (true_nV - own_nV)).sum(-1).mean()), 0.0))
    return kl[0], kl[1]
