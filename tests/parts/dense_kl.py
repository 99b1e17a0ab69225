"""The forward KL of stored rows as a dense float64 reference."""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.train.objectives import FixedTail, Targets


def make_targets(rows: int, k: int, vocabulary: int, tail: str, seed: int = 0) -> tuple[Targets, Tensor]:
    """Sparse targets from a random sharp teacher, and the dense float64 distribution they stand for at T = 1."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.softmax(3 * torch.randn(rows, vocabulary, generator=generator, dtype=torch.float64), -1)
    ids = full.topk(k).indices
    prior = torch.rand(vocabulary, generator=generator, dtype=torch.float64) ** 3 + 1e-3
    weights = prior if tail == "prior" else torch.ones(vocabulary, dtype=torch.float64)
    shape = FixedTail.prior(prior) if tail == "prior" else FixedTail.uniform(vocabulary)
    outside = torch.ones_like(full).scatter(1, ids, 0.0)
    mass = (full * outside).sum(-1, keepdim=True)
    spread = outside * weights
    share = torch.where(spread.sum(-1, keepdim=True) > 0, spread / spread.sum(-1, keepdim=True).clamp(min=1e-300), 0.0)
    stored = torch.where(outside > 0, mass * share, full)
    targets = Targets(ids, full.gather(1, ids).log(), mass.squeeze(1).log(), shape)
    return targets, stored


def reference_kl(student: Tensor, stored: Tensor, temperature: float) -> Tensor:
    """T**2 KL(p_T || s_T), dense, float64; p_T is proportional to p ** (1 / T)."""
    powered = torch.where(stored > 0, stored, 1.0).pow(1 / temperature) * (stored > 0)
    teacher = powered / powered.sum(-1, keepdim=True)
    log_student = torch.log_softmax(student.double() / temperature, -1)
    return temperature**2 * (torch.xlogy(teacher, teacher) - teacher * log_student).sum(-1)
