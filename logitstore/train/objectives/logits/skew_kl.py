"""KL to a mixture in place of the other side, so that it stays finite and its gradient bounded: DistiLLM's skewed KL.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair, kl_between
from logitstore.train.objectives.logits.divergences import FLOOR


def skew_forward_kl(student_NV: Tensor, targets: AnyTargets, *, skew: float = 0.1, temperature: float = 1.0) -> Tensor:
    """T**2 * KL(p || skew p + (1 - skew) s) per row (DistiLLM, Ko et al. 2024, equation 4); at most T**2 log(1 / skew).

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        skew: share of the side itself in the mixture, above 0, where it would be the plain KL, and below 1.
        temperature: of both sides.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples, or the skew is not between 0 and 1.
    """
    student, teacher = (side.clamp(min=FLOOR) for side in dense_pair(student_NV, targets, temperature))
    return temperature**2 * _to_mixture(teacher, student, skew)


def skew_reverse_kl(student_NV: Tensor, targets: AnyTargets, *, skew: float = 0.1, temperature: float = 1.0) -> Tensor:
    """T**2 * KL(s || skew s + (1 - skew) p) per row (DistiLLM, Ko et al. 2024, section 3.1); see `skew_forward_kl`."""
    student, teacher = (side.clamp(min=FLOOR) for side in dense_pair(student_NV, targets, temperature))
    return temperature**2 * _to_mixture(student, teacher, skew)


def _to_mixture(own_NV: Tensor, other_NV: Tensor, skew: float) -> Tensor:
    """KL(own || skew own + (1 - skew) other) of logprobs."""
    if not 0 < skew < 1:
        raise BadInput(f"skew {skew:g}: it must be above 0 and below 1. Use forward_kl or reverse_kl for 0.")
    mixture_NV = torch.logaddexp(own_NV + math.log(skew), other_NV + math.log1p(-skew))
    return kl_between(own_NV, mixture_NV)
