"""Targets, logits and formulas that the tests of several objectives on logits share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.train.objectives import FixedTail, Targets
from tests.parts.targets import TAILS, targets_of, teacher_logits

ROWS, VOCABULARY, LISTED = 6, 37, 5
GOLD = torch.tensor([0, 36, 3, 20, 11, 7])
DISTRIBUTIONS = [tail for tail in TAILS if tail != "samples"]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return torch.where(p > 0, p * (p.clamp(min=1e-300) / q).log(), 0.0).sum(-1)


def at(logits: Tensor, temperature: float) -> Tensor:
    return torch.softmax(logits / temperature, -1)


def teacher_beside(targets: Targets, student: Tensor, temperature: float = 1.0) -> Tensor:
    teacher = teacher_logits(targets, temperature)
    return torch.nn.functional.pad(teacher, (0, student.shape[1] - teacher.shape[1]), value=-math.inf)


def pearson(x: Tensor, y: Tensor) -> Tensor:
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()


def reference_plackett_luce(targets: Targets, student: Tensor, gold: Tensor, temperature: float) -> Tensor:
    found = []
    for n, (teacher_V, student_V) in enumerate(
        zip(teacher_beside(targets, student, temperature), student, strict=True)
    ):
        alpha, y, by_probability = at(teacher_V, temperature), int(gold[n]), teacher_V.argsort(descending=True).tolist()
        listed = set(targets.ids_NK[n][targets.logprobs_NK[n] > -math.inf].tolist()) or set(by_probability[:LISTED])
        loss, left = torch.zeros((), dtype=torch.float64), set(range(len(student_V)))
        for v in (y, *(v for v in by_probability if v in listed - {y})):
            loss = loss + alpha[v] * (student_V[sorted(left)].logsumexp(0) - student_V[v])
            left.remove(v)
        found.append(loss)
    return torch.stack(found)


def targets_with(tail: str, rows: int = ROWS, k: int = LISTED, vocabulary: int = VOCABULARY) -> Targets:
    found = targets_of(tail, rows, k, vocabulary)
    assert isinstance(found, Targets)
    return found


def whole(logits: Tensor) -> Targets:
    """Targets that list everything, in the order of the ids."""
    rows, vocabulary = logits.shape
    return Targets(
        torch.arange(vocabulary).expand(rows, -1),
        torch.log_softmax(logits, -1),
        torch.full((rows,), -math.inf),
        FixedTail.uniform(vocabulary),
    )


def a_student(*size: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return 2 * torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
