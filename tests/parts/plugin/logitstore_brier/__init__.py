"""An objective in a package of its own, as any user may write one: the squared distance of two distributions.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from logitstore.core.objectives.method import Method
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair


def brier(student_NV: Tensor, targets: AnyTargets, *, scale: float = 1.0, temperature: float = 1.0) -> Tensor:
    """scale * sum_v (p(v) - s(v))**2 per row (Brier 1950), both at a temperature."""
    student, teacher = dense_pair(student_NV, targets, temperature)
    return scale * (student.exp() - teacher.exp()).square().sum(-1)


METHOD = Method(target="logitstore_brier:brier", says="scale times the sum of (p - s)^2", paper="Brier 1950")
