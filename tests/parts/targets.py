"""What a teacher might have said, with every kind of tail, for the tests of the losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives import FixedTail, LatentTail, LinearHead, SampledTargets, Targets


def teacher_logits(targets: Targets, temperature: float) -> Tensor:
    """float64[N, V]: what is divided by the temperature: the logprobs at temperature 1, and (1 / T - 1) times the bias where a
    tail of its own gives the token (docs/format.md)."""
    logprobs_NV = dense_logprobs(targets).double()
    if not isinstance(targets.tail, LatentTail):
        return logprobs_NV
    is_listed_NV = torch.zeros_like(logprobs_NV, dtype=torch.bool)
    for ids_K, kept_K, listed_V in zip(targets.ids_NK, targets.logprobs_NK, is_listed_NV, strict=True):
        listed_V[ids_K[kept_K > -math.inf]] = True
    changed_NV = logprobs_NV + (1 / temperature - 1) * targets.tail.shift_V.double()
    return torch.where(is_listed_NV, logprobs_NV, changed_NV)


TAILS = ("none", "uniform", "prior", "latent", "capped latent", "latent alone", "samples")


def targets_of(tail: str, rows: int, k: int, vocabulary: int, seed: int = 0) -> AnyTargets:
    """What a teacher might have said: the first row sure of itself, the last with an empty slot."""
    draw = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(rows, vocabulary, generator=draw)
    logits[0, 0] += 30
    logprobs, ids = torch.log_softmax(logits, -1).topk(k)
    if tail == "samples":
        weights = torch.rand(rows, k, generator=draw)
        return SampledTargets(ids, weights, torch.rand(rows, generator=draw))
    if k > 1:
        logprobs[-1, -1], ids[-1, -1] = -math.inf, 0
    mass = torch.log1p(-logprobs.double().exp().sum(-1).clamp(max=1 - 1e-9)).float()
    if k == vocabulary or tail == "none":
        mass = torch.full_like(mass, -math.inf)
        logprobs = logprobs - logprobs.logsumexp(-1, keepdim=True)
    latent = None
    shape: FixedTail | LatentTail = FixedTail.uniform(vocabulary)
    if tail == "prior":
        shape = FixedTail.prior(torch.rand(vocabulary, generator=draw) ** 3 + 1e-4)
    elif "latent" in tail:
        latent = torch.randn(rows, 3, generator=draw)
        weight, base, bias = (
            torch.randn(*size, generator=draw) for size in ((vocabulary, 3), (vocabulary,), (vocabulary,))
        )
        shape = LatentTail(LinearHead(weight, base, cap=2.0 if tail == "capped latent" else 0.0), bias)
    if tail == "latent alone":
        ids, logprobs, mass = ids[:, :0], logprobs[:, :0], torch.zeros(rows)
    return Targets(ids, logprobs, mass, shape, latent)
