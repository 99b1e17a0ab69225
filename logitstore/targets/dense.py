"""The whole distribution of a few rows, at any temperature, from what is stored of it.

Axes: N rows, K listed, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets

SMALLEST = 1e-30
"""A float32 above this has all its digits."""


PRODUCT_ELEMENTS = 1 << 19


NO_LOGIT = -1e4
"""Stands for the logit of a token without mass: its exponential is 0 in every float format, and 0 times this number is 0."""


@dataclass(frozen=True)
class TemperedTargets:
    """Tempered targets are the teacher's distribution of N rows at a temperature: listed logprobs, and log c so that p(v) =
    c w(v) in the tail.

    Attributes:
        logprobs_NK: float64[N, K].
        tail_scale_N: float64[N], log c; -inf without a tail.
        tail_logmass_N: float64[N].
        tail_entropy_term_N: float64[N], the sum over the tail of p log p.
        log_weight_NK: float64[N, K], log w of the listed ids; -inf in empty slots.
    """

    logprobs_NK: Tensor
    tail_scale_N: Tensor
    tail_logmass_N: Tensor
    tail_entropy_term_N: Tensor
    log_weight_NK: Tensor


def temper(targets: Targets, temperature: float) -> TemperedTargets:
    """Re-temper the whole distribution together with its fixed tail; in float64, because the tail's sums are differences.

    With S the listed ids, R the tail mass and w the tail's weights, p(v) = R w(v) / (sum of w outside S) in the tail at
    T = 1; at T listed and unlisted probabilities are raised to 1 / T and normalised together.
    """
    if not isinstance(targets.tail, FixedTail):
        raise TypeError("only a fixed tail can be tempered without the whole distribution")
    base = targets.tail.at(1.0, targets.ids_NK.device)
    tempered = targets.tail.at(temperature, targets.ids_NK.device)
    is_empty_NK = torch.isneginf(targets.logprobs_NK)
    log_base_NK = base.log_weight_V[targets.ids_NK].masked_fill(is_empty_NK, -torch.inf)
    log_weight_NK = tempered.log_weight_V[targets.ids_NK].masked_fill(is_empty_NK, -torch.inf)
    base_rest_N = (base.total - log_base_NK.exp().sum(-1)).clamp(min=0)
    rest_N = (tempered.total - log_weight_NK.exp().sum(-1)).clamp(min=0)
    has_tail_N = torch.isfinite(targets.tail_logmass_N) & (base_rest_N > 0) & (rest_N > 0)
    scale_N = (targets.tail_logmass_N.double() - base_rest_N.log()) / temperature
    scale_N = torch.where(has_tail_N, scale_N, -torch.inf)
    tail_N = torch.where(has_tail_N, scale_N + rest_N.log(), -torch.inf)
    logits_NK = targets.logprobs_NK.double() / temperature
    normaliser_N = torch.logaddexp(logits_NK.logsumexp(-1), tail_N)
    scale_N, tail_N = scale_N - normaliser_N, tail_N - normaliser_N
    weights_NK = log_weight_NK.exp()
    weighted_rest_N = tempered.weighted_log - torch.where(weights_NK > 0, weights_NK * log_weight_NK, 0.0).sum(-1)
    entropy_N = scale_N.exp() * (rest_N * scale_N + weighted_rest_N)
    return TemperedTargets(
        logprobs_NK=logits_NK - normaliser_N[:, None],
        tail_scale_N=scale_N,
        tail_logmass_N=tail_N,
        tail_entropy_term_N=torch.where(has_tail_N, entropy_N, 0.0),
        log_weight_NK=log_weight_NK,
    )


def dense_logprobs(targets: Targets, temperature: float | Tensor = 1.0) -> Tensor:
    """Return float32[N, V]: the teacher's whole distribution, -inf where it gives no mass. Call it for a chunk of rows at a
    time.

    The listed tokens are taken out of the tail's logits, the rest is scaled to the tail mass, and the listed logprobs are
    put in their places; then everything is re-tempered, the tail with its change (`LatentTail.change`).

    Args:
        targets: of the rows.
        temperature: above 0: of all rows, or float[N, 1], that of each.
    """
    device = targets.ids_NK.device
    is_tempered = isinstance(temperature, Tensor) or temperature != 1
    change_V = targets.tail.change(temperature, device)
    tail_NV = targets.tail.logits(targets.latent_NR, len(targets), device)
    if targets.ids_NK.shape[1] == 0:
        tail_NV = tail_NV if change_V is None else tail_NV + change_V
        return torch.log_softmax(tail_NV / temperature if is_tempered else tail_NV, -1)
    # empty slots write into one more column
    wide_NV = torch.nn.functional.pad(tail_NV, (0, 1), value=-torch.inf)
    places_NK = targets.ids_NK.masked_fill(torch.isneginf(targets.logprobs_NK), tail_NV.shape[1])
    wide_NV.scatter_(1, places_NK, -torch.inf)
    scale_N = targets.tail_logmass_N.float() - wide_NV.logsumexp(-1)
    wide_NV += torch.where(torch.isfinite(scale_N), scale_N, -torch.inf)[:, None]
    if change_V is not None:
        wide_NV[:, :-1] += change_V
    wide_NV.scatter_(1, places_NK, targets.logprobs_NK.float())
    logprobs_NV = wide_NV[:, :-1]
    return torch.log_softmax(logprobs_NV / temperature, -1) if is_tempered else logprobs_NV


def dense_probs(targets: Targets, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Return the teacher's whole distribution float32[N, V], and its sum of p log p float32[N], in few passes.

    With t the tail's logits, S the listed ids and R the tail mass, log p(v) = t(v) + log R - lse(t outside S) outside S. At
    temperature 1 that is R times the softmax of t outside S; else listed and tail are put together and re-tempered, the
    tail with its change.
    """
    logits_NV = targets.tail.logits(targets.latent_NR, len(targets), targets.ids_NK.device).contiguous()
    change_V = targets.tail.change(temperature, logits_NV.device)
    if targets.ids_NK.shape[1] == 0:
        logits_NV = logits_NV if change_V is None else logits_NV.add_(change_V)
        return _softmax_and_negative_entropy(logits_NV, temperature)
    is_empty_NK = torch.isneginf(targets.logprobs_NK)
    # an empty slot writes to the place of the first slot, which is never empty
    places_NK = torch.where(is_empty_NK, targets.ids_NK[:, :1], targets.ids_NK)
    logprobs_NK = targets.logprobs_NK.float()
    logits_NV.scatter_(1, places_NK, NO_LOGIT)
    tail_N = targets.tail_logmass_N.float().clamp(min=NO_LOGIT)
    if temperature == 1:
        mass_N = tail_N.exp()
        probs_NV, plogp_N = _softmax_and_negative_entropy(logits_NV, 1.0)
        listed_NK = logprobs_NK.exp()
        probs_NV.mul_(mass_N[:, None]).scatter_add_(1, places_NK, listed_NK)
        return probs_NV, mass_N * (plogp_N + tail_N) + torch.where(is_empty_NK, 0.0, listed_NK * logprobs_NK).sum(-1)
    logits_NV.add_((tail_N - logits_NV.logsumexp(-1))[:, None])
    if change_V is not None:
        logits_NV.add_(change_V)
    logits_NV.scatter_(1, places_NK, torch.where(is_empty_NK, logprobs_NK[:, :1], logprobs_NK))
    return _softmax_and_negative_entropy(logits_NV, temperature)


def _softmax_and_negative_entropy(logits_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return softmax(z / T), and its sum of p log p = <p, z / T> - lse(z / T)."""
    if temperature != 1:
        logits_NV = logits_NV.mul_(1 / temperature)
    probs_NV = torch.softmax(logits_NV, -1)
    return probs_NV, row_dot(probs_NV, logits_NV) - normaliser(logits_NV, probs_NV)


def normaliser(logits_NV: Tensor, probs_NV: Tensor) -> Tensor:
    """Return [N]: log sum exp of the logits, given their softmax.

    As log p(v) = z(v) - lse for every v, any one token gives lse, unless its probability is too small for a float; then the
    most probable token is used. Checking this saves a pass on the CPU, but on a GPU it would wait for the device.
    """
    if logits_NV.device.type == "cpu" and bool((probs_NV[:, 0] > SMALLEST).all()):
        return logits_NV[:, 0] - probs_NV[:, 0].log()
    return logits_NV.amax(-1) - probs_NV.amax(-1).log()


def row_dot(left_NV: Tensor, right_NV: Tensor) -> Tensor:
    """Return [N]: sum_v left(v) right(v).

    The product and its sum are taken a few rows at a time on the CPU, so that the product stays in its cache; batched
    matrix products of one row take three times as long.
    """
    size = max(PRODUCT_ELEMENTS // left_NV.shape[1], 1) if left_NV.device.type == "cpu" else max(len(left_NV), 1)
    starts = range(0, max(len(left_NV), 1), size)
    return torch.cat([(left_NV[i : i + size] * right_NV[i : i + size]).sum(-1) for i in starts])


def dense(targets: Targets, temperature: float = 1.0) -> Tensor:
    """Return float32[N, V]: `dense_logprobs` as probabilities."""
    return dense_logprobs(targets, temperature).exp()
