"""KL(teacher || student): exact for the distribution that is stored, whatever its tail; an unbiased estimate from samples.

Axes: N rows, K kept, V the student's vocabulary, at least as wide as the teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.target import teacher_target


def forward_kl(student_NV: Tensor, targets: AnyTargets, *, temperature: float = 1.0) -> Tensor:
    """T**2 * KL(p || s) per row, the teacher p and the student s both at temperature T (Hinton et al. 2015, section 2).

    Args:
        student_NV: raw student logits, any float dtype; reduced in float32 (float64 stays). Columns beyond the teacher's
            vocabulary count as tokens to which the teacher gives no mass.
        targets: N rows, nats at temperature 1.
        temperature: of both sides.

    Returns:
        [N], nats, neither masked nor averaged. Infinite or NaN where the student rules out a token that the teacher
        does not. An estimate from samples may be negative in a row.

    Raises:
        BadInput: samples at another temperature than 1, where they say nothing unbiased.
    """
    wide_NV = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    logprobs_NV = torch.log_softmax(wide_NV / temperature if temperature != 1.0 else wide_NV, -1)
    target = teacher_target(targets, temperature, wide_NV.dtype)[:]
    return temperature**2 * (target.constant_N - target.dot(logprobs_NV))
