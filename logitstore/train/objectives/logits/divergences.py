"""Reverse KL and Jensen-Shannon divergence: of the distribution that is stored, with any tail.

Both need the teacher's whole distribution of a row, so they are for a chunk of rows at a time (`rowwise`). On a stored
approximation the reverse KL is as wrong as the tail is where the student has mass; a cache without a tail makes it infinite.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair, distribution_of, kl_between, reverse_between

FLOOR = -1e4
"""Stands for log 0: its exponential is 0 in every float, and products with 0 stay 0."""


def reverse_kl(student_NV: Tensor, targets: AnyTargets, *, temperature: float = 1.0) -> Tensor:
    """T**2 * KL(s || p) per row, both at temperature T (MiniLLM, Gu et al. 2024, equation 1).

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        temperature: of both sides.

    Returns:
        [N], nats. Infinite where the student gives mass to a token of the teacher's vocabulary that the teacher rules out; for
        tokens beyond that vocabulary see `reverse_between`.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    return temperature**2 * reverse_between(student, teacher, distribution_of(targets).tail.vocabulary)


def jensen_shannon(student_NV: Tensor, targets: AnyTargets, *, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """T**2 * (beta KL(p || m) + (1 - beta) KL(s || m)) per row, m = beta p + (1 - beta) s (GKD, Agarwal et al. 2024, eq. 1).

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        beta: above 0 and below 1; 1/2 is the usual divergence, at most log 2. Towards 0 the divergence over beta is the
            forward KL, towards 1 the divergence over 1 - beta is the reverse KL.
        temperature: of both sides.

    Returns:
        [N], nats, always finite.

    Raises:
        BadInput: the targets are random samples, or beta is not between 0 and 1.
    """
    if not 0 < beta < 1:
        raise BadInput(f"beta {beta:g}: it must be above 0 and below 1. Use forward_kl for 0 and reverse_kl for 1.")
    student, teacher = dense_pair(student_NV, targets, temperature)
    student, teacher = student.clamp(min=FLOOR), teacher.clamp(min=FLOOR)
    mixture = torch.logaddexp(teacher + math.log(beta), student + math.log1p(-beta))
    return temperature**2 * (beta * kl_between(teacher, mixture) + (1 - beta) * kl_between(student, mixture))


def symmetric_kl(student_NV: Tensor, targets: AnyTargets, *, temperature: float = 1.0) -> Tensor:
    """T**2 * (KL(p || s) + KL(s || p)) / 2 per row, half of Jeffreys' divergence (Jeffreys 1946).

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        temperature: of both sides.

    Returns:
        [N], nats. Infinite where either side gives mass to a token of the teacher's vocabulary that the other rules out; for
        tokens beyond that vocabulary see `reverse_between`.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    vocabulary = distribution_of(targets).tail.vocabulary
    return temperature**2 * (kl_between(teacher, student) + reverse_between(student, teacher, vocabulary)) / 2


def total_variation(student_NV: Tensor, targets: AnyTargets, *, temperature: float = 1.0) -> Tensor:
    """sum_v |p(v) - s(v)| / 2 per row (DistillSpec, Zhou et al. 2024, section 4.2), both at temperature T, without a factor.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        temperature: of both sides.

    Returns:
        [N], from 0 to 1.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    return (teacher.exp() - student.exp()).abs().sum(-1) / 2
