"""The gold token against all others, and the others among themselves, each with a weight of its own: decoupled KD.

With b = (p(gold), 1 - p(gold)) and c = p outside the gold token, divided by its sum, for either side,

    KL(p || s) = KL(b_p || b_s) + (1 - p(gold)) KL(c_p || c_s)

so that a teacher sure of the gold token teaches little about the others; decoupled, they count in full.

Axes: N rows, V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import dense_pair, kl_between


def dkd(
    student_NV: Tensor,
    targets: AnyTargets,
    gold_N: Tensor,
    *,
    temperature: float = 1.0,
    target_weight: float = 1.0,
    non_target_weight: float = 0.5,
) -> Tensor:
    """T**2 (target_weight TCKD + non_target_weight NCKD) per row (DKD, Zhao et al. 2022, section 3).

    The weight of the second term belongs to the temperature: the authors' scripts (megvii-research/mdistiller, configs) have
    0.5 at temperature 1 for ImageNet, and 8 at temperature 4 for CIFAR-100, where a large weight warms up over 20 epochs.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        gold_N: int64, the tokens that follow.
        temperature: of both sides.
        target_weight: of `target_kl`, the paper's alpha.
        non_target_weight: of `non_target_kl`, the paper's beta.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples.
    """
    student, teacher = dense_pair(student_NV, targets, temperature)
    target_N, non_target_N = target_kl(student, teacher, gold_N), non_target_kl(student, teacher, gold_N)
    return temperature**2 * (target_weight * target_N + non_target_weight * non_target_N)


def target_kl(student_NV: Tensor, teacher_NV: Tensor, gold_N: Tensor) -> Tensor:
    """TCKD: KL between the two sides' chances of the gold token and of any other, [N], from logprobs of both."""
    student_N2, teacher_N2 = (
        torch.stack([side.gather(1, gold_N[:, None])[:, 0], _others(side, gold_N).logsumexp(-1)], -1)
        for side in (student_NV, teacher_NV)
    )
    return kl_between(teacher_N2, student_N2)


def non_target_kl(student_NV: Tensor, teacher_NV: Tensor, gold_N: Tensor) -> Tensor:
    """NCKD: KL between the two sides' distributions of what is not gold, [N]; 0 where the teacher gives that no mass."""
    student_NV, teacher_NV = _others(student_NV, gold_N), _others(teacher_NV, gold_N)
    mass_N = teacher_NV.logsumexp(-1)
    # without mass every logprob is -inf already
    mass_N = mass_N.masked_fill(torch.isneginf(mass_N), 0.0)
    return kl_between(teacher_NV - mass_N[:, None], torch.log_softmax(student_NV, -1))


def _others(logprobs_NV: Tensor, gold_N: Tensor) -> Tensor:
    return logprobs_NV.scatter(1, gold_N[:, None], -torch.inf)


def one_for_all(
    student_NV: Tensor, targets: AnyTargets, gold_N: Tensor, *, temperature: float = 1.0, gamma: float = 1.5
) -> Tensor:
    """sum_v -((p(v) + [v = gold])**gamma - [v = gold]) log s(v) per row (OFA-KD, Hao et al. 2023, equation 8).

    As in the authors' code (Hao840/OFAKD, distillers/ofa.py) all tokens are raised to gamma, not the gold one alone, and there
    is no factor T**2. With gamma 1 it is the cross-entropy to the teacher.

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
    return -(weight_NV * student_NV.masked_fill(weight_NV == 0, 0.0)).sum(-1)
