"""Targets as tensors, and the shape of their tails at a temperature.

Axes: N rows, K kept, V vocabulary of the teacher.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tail:
    """How the mass outside the listed ids is spread: in proportion to one fixed vector over the vocabulary.

    Attributes:
        log_prior_V: float64[V], finite log weights.
    """

    log_prior_V: Tensor

    @classmethod
    def uniform(cls, vocabulary: int) -> Tail:
        """Every unlisted token alike."""
        return cls(torch.zeros(vocabulary, dtype=torch.float64))

    @classmethod
    def prior(cls, prior_V: Tensor) -> Tail:
        """In proportion to `prior_V`, positive weights of any sum."""
        return cls(prior_V.double().log())

    @property
    def vocabulary(self) -> int:
        return len(self.log_prior_V)

    def at(self, temperature: float, device: torch.device) -> TemperedTail:
        """The tail at a temperature, computed once and kept."""
        return _tempered(self, temperature, device)


@dataclass(frozen=True, eq=False)
class TemperedTail:
    """Weights w(v) = prior(v) ** (1 / T), scaled so that the largest is 1, and their sums.

    Attributes:
        log_weight_V: float64[V], log w.
        weight_V: float32[V], w.
        total: sum of w.
        weighted_log: sum of w log w.
    """

    log_weight_V: Tensor
    weight_V: Tensor
    total: Tensor
    weighted_log: Tensor


@lru_cache(maxsize=16)
def _tempered(tail: Tail, temperature: float, device: torch.device) -> TemperedTail:
    log_weight_V = tail.log_prior_V.to(device) / temperature
    log_weight_V = log_weight_V - log_weight_V.max()
    weight_V = log_weight_V.exp()
    return TemperedTail(log_weight_V, weight_V.float(), weight_V.sum(), (weight_V * log_weight_V).sum())


@dataclass(frozen=True)
class Targets:
    """What the teacher said about N rows, in nats at temperature 1. Listed and tail mass sum to 1.

    Attributes:
        ids_NK: int64[N, K].
        logprobs_NK: float32[N, K], -inf allowed.
        tail_logmass_N: float32[N], log of the mass outside the ids, -inf when there is none.
        tail: how that mass is spread.
    """

    ids_NK: Tensor
    logprobs_NK: Tensor
    tail_logmass_N: Tensor
    tail: Tail

    def __len__(self) -> int:
        return len(self.ids_NK)

    def __getitem__(self, rows: slice) -> Targets:
        return Targets(self.ids_NK[rows], self.logprobs_NK[rows], self.tail_logmass_N[rows], self.tail)


@dataclass(frozen=True)
class TemperedTargets:
    """The teacher's distribution of N rows at a temperature: listed logprobs, and log c so that p(v) = c w(v) in the tail.

    Attributes:
        logprobs_NK: float64[N, K].
        tail_scale_N: float64[N], log c; -inf without a tail.
        tail_logmass_N: float64[N].
        tail_entropy_term_N: float64[N], the sum over the tail of p log p.
        log_weight_NK: float64[N, K], log w of the listed ids.
    """

    logprobs_NK: Tensor
    tail_scale_N: Tensor
    tail_logmass_N: Tensor
    tail_entropy_term_N: Tensor
    log_weight_NK: Tensor


def temper(targets: Targets, temperature: float) -> TemperedTargets:
    """Re-temper the whole distribution, the tail with it; float64, because the tail's sums are differences.

    With S the listed ids, R the tail mass and w the tail's weights, p(v) = R w(v) / (sum of w outside S) in the tail at
    T = 1; at T listed and unlisted probabilities are raised to 1 / T and normalised together.
    """
    base = targets.tail.at(1.0, targets.ids_NK.device)
    tempered = targets.tail.at(temperature, targets.ids_NK.device)
    log_base_NK = base.log_weight_V[targets.ids_NK]
    log_weight_NK = tempered.log_weight_V[targets.ids_NK]
    base_rest_N = (base.total - log_base_NK.exp().sum(-1)).clamp(min=0)
    rest_N = (tempered.total - log_weight_NK.exp().sum(-1)).clamp(min=0)
    has_tail_N = torch.isfinite(targets.tail_logmass_N) & (base_rest_N > 0) & (rest_N > 0)
    scale_N = (targets.tail_logmass_N.double() - base_rest_N.log()) / temperature
    scale_N = torch.where(has_tail_N, scale_N, -torch.inf)
    tail_N = torch.where(has_tail_N, scale_N + rest_N.log(), -torch.inf)
    logits_NK = targets.logprobs_NK.double() / temperature
    normaliser_N = torch.logaddexp(logits_NK.logsumexp(-1), tail_N)
    scale_N, tail_N = scale_N - normaliser_N, tail_N - normaliser_N
    weighted_rest_N = tempered.weighted_log - (log_weight_NK.exp() * log_weight_NK).sum(-1)
    entropy_N = scale_N.exp() * (rest_N * scale_N + weighted_rest_N)
    return TemperedTargets(
        logprobs_NK=logits_NK - normaliser_N[:, None],
        tail_scale_N=scale_N,
        tail_logmass_N=tail_N,
        tail_entropy_term_N=torch.where(has_tail_N, entropy_N, 0.0),
        log_weight_NK=log_weight_NK,
    )


def dense(targets: Targets, temperature: float = 1.0) -> Tensor:
    """The teacher's whole distribution, float32[N, V] probabilities; for evaluation and tests, a chunk of rows at a time."""
    tempered = temper(targets, temperature)
    weight_V = targets.tail.at(temperature, targets.ids_NK.device).weight_V
    probs_NV = tempered.tail_scale_N.exp().float()[:, None] * weight_V
    return probs_NV.scatter_(1, targets.ids_NK, tempered.logprobs_NK.exp().float())
