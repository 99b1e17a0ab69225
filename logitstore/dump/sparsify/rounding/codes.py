"""The codes of a sketch, chosen for the row: whole levels of the coefficients that decode to the tail nearest to the row's own.

The nearest level of each coefficient is best for the average row. A row's own tail says which errors matter in it, and lets
the errors of some coefficients undo those of others. From the nearest levels c on, single coefficients move by one level
where that lowers a quadratic model of the row's KL most,

    KL(c + s) - KL(c)  =  g s + s^T H s / 2,      g = J^T diag(w) e,      H = J^T diag(w) J,      w e and w J less their means

with e the error of the decoded tail logits, J their derivatives by the coefficients, and w(v) half of p_T(v) + q_T(v) over
T^2, summed over temperatures 1 and 2 with SHARES; p and q are the true distribution and the one that c decodes to. The mean of
p and q is the weight between them (KL is an integral of variances along the line from one to the other). g and the diagonal of
H are sums over the whole vocabulary. What two coefficients do together is taken from the SEEN tokens with the largest weights;
the rest of the diagonal counts CAUTION times, as what is not seen there is not free.

A stored row is read as before: the decoder does not know how its codes were chosen.

Axes: N rows (n at a time), K listed, R coefficients, L levels of the widest coefficient, M seen tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from logitstore.dump.sparsify.sketch import without
from logitstore.format.row import RowInfo
from logitstore.targets.chunks import ASKED_ELEMENTS, chunk_rows

SHARES = (0.5, 1.0)
"""Weights of the KL at temperatures 1 and 2."""


SEEN = 256
"""Count of tokens of a row for which pairs of coefficients are looked at."""


CAUTION = 1.5
"""Weight of the squared moves on the tokens that are not seen."""


MOVES = 96
"""Most moves of a row."""


LOOKED_AT = 8
"""After so many moves each it is looked whether any row still moves; a GPU has to be waited for."""


WORST = 10.0
"""Nats. An error of a logit counts no more than this: a token that is impossible for the teacher has an infinite one."""


class Rounding:
    """Chooses the codes of rows of one cache; it keeps its tensors on the device where it was used last.

    Args:
        shared: the tensors of a sketch (docs/format.md).
    """

    def __init__(self, shared: Mapping[str, Tensor]) -> None:
        self._cap = float(shared["cap"])
        self._weight_VR = shared["weight"].float()
        self._base_V, self._bias_V = shared["base"], shared["bias"]
        widths_R, self._levels_RL = shared["widths"].long(), shared["levels"]
        count, widest = self._levels_RL.shape
        self._last_R = 2**widths_R - 1
        is_step_RL = torch.arange(widest) < self._last_R[:, None]
        self._up_RL = torch.where(is_step_RL, self._levels_RL.roll(-1, 1) - self._levels_RL, 0.0)
        self._borders_RL = torch.where(is_step_RL, (self._levels_RL.roll(-1, 1) + self._levels_RL) / 2, torch.inf)
        self._first_R = torch.arange(count) * widest

    def __call__(self, logits_NV: Tensor, kept: Mapping[str, Tensor], latent_NR: Tensor) -> Tensor:
        """Return the chosen levels, float32[N, R].

        Args:
            logits_NV: the teacher's raw logits of any float dtype, with or without padding columns; -inf marks impossible
                tokens.
            kept: what the sparsifier keeps: `ids` int64[N, K], and `logprobs`, -inf in empty slots.
            latent_NR: float32, the coefficients of the rows.
        """
        device, vocabulary = kept["ids"].device, len(self._base_V)
        self._move(device)
        listed_NK = kept["ids"].masked_fill(torch.isneginf(kept["logprobs"]), vocabulary)
        logits_NV, latent_NR = logits_NV[:, :vocabulary].to(device), latent_NR.float().to(device)
        chosen_NR = torch.empty_like(latent_NR)
        pairs = latent_NR.shape[1] * max(latent_NR.shape[1], SEEN)
        size = min(chunk_rows(vocabulary, device.type), chunk_rows(pairs, device.type, ASKED_ELEMENTS))
        for first in range(0, len(latent_NR), size):
            some = slice(first, first + size)
            numbers_nR = self._chosen(logits_NV[some].float(), listed_NK[some], self.nearest(latent_NR[some]))
            chosen_NR[some] = self._levels_RL.flatten()[numbers_nR + self._first_R]
        return chosen_NR

    def nearest(self, latent_NR: Tensor) -> Tensor:
        """Return the number of the nearest level of every coefficient, int64[N, R]."""
        return torch.searchsorted(self._borders_RL, latent_NR.T.contiguous()).T.contiguous()

    def _move(self, device: torch.device) -> None:
        if self._weight_VR.device != device:
            for name, value in vars(self).items():
                if isinstance(value, Tensor):
                    setattr(self, name, value.to(device))

    def _chosen(self, logits_nV: Tensor, listed_nK: Tensor, numbers_nR: Tensor) -> Tensor:
        """Return the numbers of the chosen levels, int64[n, R]."""
        gradient_nR, hessian_nRR = self.model(
            logits_nV, listed_nK, self._levels_RL.flatten()[numbers_nR + self._first_R]
        )
        return self.descend(gradient_nR, hessian_nRR, numbers_nR)

    def model(self, logits_nV: Tensor, listed_nK: Tensor, latent_nR: Tensor) -> tuple[Tensor, Tensor]:
        """Return g, float32[n, R], and H, float32[n, R, R], at these coefficients; see the head of this file."""
        raw_nV = torch.addmm(self._base_V, latent_nR, self._weight_VR.T)
        slope_nV = None
        if self._cap:
            tanh_nV = torch.tanh(raw_nV / self._cap)
            raw_nV, slope_nV = self._cap * tanh_nV, 1 - tanh_nV.square()
        decoded_nV = without(raw_nV.add_(self._bias_V), listed_nK, -torch.inf)
        weight_nV, error_nV = _weights_and_errors(logits_nV, listed_nK, decoded_nV)
        total_n1 = weight_nV.sum(1, keepdim=True).clamp(min=1e-30)
        error_nV -= (weight_nV * error_nV).sum(1, keepdim=True) / total_n1
        sloped_nV = weight_nV if slope_nV is None else weight_nV * slope_nV
        gradient_nR = (sloped_nV * error_nV) @ self._weight_VR
        mean_nR = sloped_nV @ self._weight_VR / total_n1
        curved_nV = sloped_nV if slope_nV is None else sloped_nV * slope_nV
        diagonal_nR = curved_nV @ self._weight_VR.square() - total_n1 * mean_nR.square()
        seen = weight_nV.topk(min(SEEN, weight_nV.shape[1]), sorted=False)
        moved_nMR = self._weight_VR[seen.indices]
        if slope_nV is not None:
            moved_nMR *= slope_nV.gather(1, seen.indices)[:, :, None]
        moved_nMR = (moved_nMR - mean_nR[:, None]) * seen.values.sqrt()[:, :, None]
        hessian_nRR = moved_nMR.mT @ moved_nMR
        own_nR = hessian_nRR.diagonal(dim1=1, dim2=2)
        own_nR += CAUTION * (diagonal_nR - own_nR).clamp(min=0.0)
        return gradient_nR, hessian_nRR

    def descend(self, gradient_nR: Tensor, hessian_nRR: Tensor, numbers_nR: Tensor) -> Tensor:
        """Return level numbers, int64[n, R]: no move of one of them by one level lowers the model, or MOVES moves are made."""
        numbers_nR, gradient_nR = numbers_nR.clone(), gradient_nR.clone()
        half_nR = hessian_nRR.diagonal(dim1=1, dim2=2) / 2
        rows_n = torch.arange(len(numbers_nR), device=numbers_nR.device)
        up_X = self._up_RL.flatten()
        for move in range(MOVES):
            places_nR = numbers_nR + self._first_R
            up_nR, down_nR = up_X[places_nR], -up_X[(places_nR - 1).clamp(min=0)]
            down_nR = torch.where(numbers_nR > 0, down_nR, 0.0)
            # a step of 0, beyond the first or the last level, changes nothing
            step_nR = torch.where(gradient_nR < 0, up_nR, down_nR)
            change_nR = step_nR * (gradient_nR + half_nR * step_nR)
            lowest = change_nR.min(1)
            is_moved_n = lowest.values < 0
            if move % LOOKED_AT == 0 and not is_moved_n.any():
                break
            step_n = torch.where(is_moved_n, step_nR[rows_n, lowest.indices], 0.0)
            numbers_nR[rows_n, lowest.indices] += step_n.sign().long()
            gradient_nR += hessian_nRR[rows_n, lowest.indices] * step_n[:, None]
        return numbers_nR


def rounding_of(row: RowInfo, shared: Mapping[str, Tensor]) -> Rounding | None:
    """Return what chooses the codes of these rows' sketches; None where they have none, or the nearest levels."""
    return Rounding(shared) if row.tail.rounding == "row" else None


def _weights_and_errors(logits_nV: Tensor, listed_nK: Tensor, decoded_nV: Tensor) -> tuple[Tensor, Tensor]:
    """Return w and e of all tokens, float32[n, V] each, 0 for the listed ones.

    Args:
        logits_nV: the teacher's.
        listed_nK: listed ids; those at or above the vocabulary are empty slots.
        decoded_nV: tail logits, of any sum; -inf for the listed tokens.
    """
    logprobs_nV = torch.log_softmax(logits_nV, -1)
    tail_nV = without(logprobs_nV, listed_nK, -torch.inf)
    mass_n1 = tail_nV.logsumexp(1, keepdim=True)
    stored_nV = torch.log_softmax(decoded_nV, -1) + mass_n1
    weight_nV = torch.zeros_like(logprobs_nV)
    for temperature, share in zip((1.0, 2.0), SHARES, strict=True):
        true_nV, own_nV = (tail_nV / temperature).exp_(), (stored_nV / temperature).exp_()
        listed_n1 = (logprobs_nV / temperature).exp_().sum(1, keepdim=True) - true_nV.sum(1, keepdim=True)
        for each_nV in (true_nV, own_nV):
            scale_n1 = share / 2 / temperature**2 / (listed_n1 + each_nV.sum(1, keepdim=True))
            weight_nV.addcmul_(each_nV, scale_n1.expand_as(each_nV))
    weight_nV = torch.nan_to_num(weight_nV, nan=0.0)
    error_nV = torch.nan_to_num(stored_nV - tail_nV, nan=0.0).clamp_(-WORST, WORST)
    return weight_nV, error_nV
