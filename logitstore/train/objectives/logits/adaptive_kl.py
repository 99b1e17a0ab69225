"""Forward KL where the student misses the teacher's head, reverse KL where it misses the tail: AKL.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair, distribution_of, kl_between, reverse_between


def adaptive_kl(student_NV: Tensor, targets: AnyTargets, *, head: float = 0.5, temperature: float = 1.0) -> Tensor:
    """w KL(p || s) + (1 - w) KL(s || p) per row, times T**2 (AKL, Wu et al. 2025, section 4).

    The head of a row are the most probable tokens of the teacher before which less than `head` of its mass has come; w is the
    head's share of the gap sum_v |p(v) - s(v)|. It is a weight, so no gradient goes through it.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        head: mass of the head.
        temperature: of both sides.

    Returns:
        [N], nats; for tokens beyond the teacher's vocabulary see `reverse_between`.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    vocabulary = distribution_of(targets).tail.vocabulary
    with torch.no_grad():
        probs_NV, order_NV = teacher.exp().sort(-1, descending=True)
        gap_NV = (probs_NV - student.exp().gather(1, order_NV)).abs()
        is_head_NV = probs_NV.cumsum(-1) - probs_NV < head
        head_N, all_N = (gap_NV * is_head_NV).sum(-1), gap_NV.sum(-1)
        weight_N = torch.where(all_N > 0, head_N / all_N, 0.5)
    return temperature**2 * (
        weight_N * kl_between(teacher, student) + (1 - weight_N) * reverse_between(student, teacher, vocabulary)
    )


def balanced_kl(
    student_NV: Tensor, targets: AnyTargets, *, temperature: float = 1.0, heavy: float = 2.0, light: float = 1.0
) -> Tensor:
    """T**2 (w KL(p || s) + w' KL(s || p)) per row, after BD-KD (Amara et al. 2022).

    (w, w') is (heavy, light) where the student's entropy at temperature 1 is below the teacher's, else (light, heavy); no
    gradient goes through the choice. That the weights change places with the sign of the entropy gap is the paper's idea; the
    defaults are not taken from it, since its own values could not be confirmed. Its teacher learns as well; this one does not.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        temperature: of both sides of the divergences.
        heavy: weight of the direction that the row needs.
        light: weight of the other.

    Returns:
        [N], nats. Infinite where either side gives mass to a token of the teacher's vocabulary that the other rules out; for
        tokens beyond that vocabulary see `reverse_between`.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    vocabulary = distribution_of(targets).tail.vocabulary
    with torch.no_grad():
        plain = (student, teacher) if temperature == 1 else dense_pair(student_NV, targets, 1.0)
        student_N, teacher_N = (torch.special.entr(side.exp()).sum(-1) for side in plain)
        forward_N = light + (heavy - light) * (student_N < teacher_N).to(student.dtype)
        reverse_N = heavy + light - forward_N
    loss_N: Tensor = forward_N * kl_between(teacher, student) + reverse_N * reverse_between(
        student, teacher, vocabulary
    )
    return temperature**2 * loss_N
