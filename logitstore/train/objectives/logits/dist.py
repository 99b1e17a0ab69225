"""How well the student's probabilities rise and fall with the teacher's, along a row and along a token: DIST.

The second is over rows, so it is of the rows that are given together and of no others.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.dense import SMALLEST
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair, distribution_of

ROUNDING = 1e-5
"""What varies by less than this share of its largest value is as good as constant in a float32."""


def dist(
    student_NV: Tensor,
    targets: AnyTargets,
    *,
    temperature: float = 1.0,
    inter_weight: float = 1.0,
    intra_weight: float = 1.0,
) -> Tensor:
    """T**2 (inter_weight (1 - r) + intra_weight (1 - mean_v r_v)) per row (DIST, Huang et al. 2022).

    r is Pearson's correlation of a row's probabilities over the teacher's vocabulary, r_v that of a token's probabilities over
    the N rows. The mean is over the tokens to which the teacher gives more mass in one row than in another, and the second term
    is the same number in every row. A teacher's row or token without variance has no correlation and adds nothing; where the
    student alone has none, the correlation counts as 0. The authors' scripts (hunto/image_classification_sota) add 2 of it to 1
    of cross-entropy, at T = 1 on ImageNet and 4 on CIFAR-100.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows, those that are compared with each other.
        temperature: of both sides.
        inter_weight: of the correlation over tokens, the paper's beta.
        intra_weight: of the correlation over rows, the paper's gamma.

    Returns:
        [N], from 0 to 2 T**2 (inter_weight + intra_weight).

    Raises:
        BadInput: the targets are random samples.
    """
    vocabulary = distribution_of(targets).tail.vocabulary
    student, teacher = (side[:, :vocabulary].exp() for side in dense_pair(student_NV, targets, temperature))
    inter_N, _ = _unlikeness(student, teacher, dim=1)
    intra_V, varies_V = _unlikeness(student, teacher, dim=0)
    intra = intra_V.sum() / varies_V.sum().clamp(min=1)
    return temperature**2 * (inter_weight * inter_N + intra_weight * intra)


def _unlikeness(student_NV: Tensor, teacher_NV: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """1 - Pearson's correlation along a dimension, 0 where the teacher is constant; and whether it is not."""
    student, _ = _standardised(student_NV, dim)
    teacher, varies = _standardised(teacher_NV, dim)
    return torch.where(varies, 1 - (student * teacher).sum(dim), 0.0), varies


def _standardised(values_NV: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean taken out and length 1, or all 0 where nothing varies; and whether something does."""
    centred_NV = values_NV - values_NV.mean(dim, keepdim=True)
    # a correlation knows no scale; without one, squares of small probabilities would be 0
    scale = centred_NV.detach().abs().amax(dim, keepdim=True)
    varies = scale > (ROUNDING * values_NV.detach().abs().amax(dim, keepdim=True)).clamp(min=SMALLEST)
    scaled_NV = torch.where(varies, centred_NV / torch.where(varies, scale, 1.0), 0.0)
    length = torch.where(varies, scaled_NV.square().sum(dim, keepdim=True), 1.0).sqrt()
    return scaled_NV / length, varies.squeeze(dim)
