"""Both directions of KL, half each: of the distribution that is stored, with any tail.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from logitstore.objectives.dense_pair import dense_pair, distribution_of, kl_between, reverse_between
from logitstore.targets import AnyTargets


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
