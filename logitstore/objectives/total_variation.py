"""Total variation: how much mass would have to move; 1 minus it is the chance that a drafted token is kept.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from logitstore.objectives.dense_pair import dense_pair
from logitstore.targets import AnyTargets


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
