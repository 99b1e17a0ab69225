"""Cross-entropy to the teacher with its word on the gold token strengthened, for students of another architecture.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.objectives.dense_pair import dense_pair
from logitstore.targets import AnyTargets


def one_for_all(
    student_NV: Tensor, targets: AnyTargets, gold_N: Tensor, *, temperature: float = 1.0, gamma: float = 1.5
) -> Tensor:
    """T**2 sum_v -((p(v) + [v = gold])**gamma - [v = gold]) log s(v) per row (OFA-KD, Hao et al. 2023, equation 8).

    As in the authors' code all tokens are raised to gamma, not the gold one alone. With gamma 1 it is the cross-entropy to the
    teacher.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        gold_N: int64, the tokens that follow.
        temperature: of both sides.
        gamma: the larger, the more the gold token counts where the teacher is sure of it, and the less all others.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples.
    """
    student_NV, teacher_NV = dense_pair(student_NV, targets, temperature)
    is_gold_NV = torch.zeros_like(teacher_NV).scatter_(1, gold_N[:, None], 1.0)
    weight_NV = (teacher_NV.exp() + is_gold_NV) ** gamma - is_gold_NV
    # a token without weight adds nothing, also where the student's logit is -inf
    return -(temperature**2) * (weight_NV * student_NV.masked_fill(weight_NV == 0, 0.0)).sum(-1)
