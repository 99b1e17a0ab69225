"""Forward KL for rows where the student is surer than the teacher, reverse KL where it is less sure: BD-KD.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.objectives.dense_pair import dense_pair, distribution_of, kl_between, reverse_between
from logitstore.targets import AnyTargets


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
