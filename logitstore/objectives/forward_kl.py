"""KL(teacher || student): exact for the distribution that is stored, whatever its tail; an unbiased estimate from samples.

Axes: N rows, K kept, V the student's vocabulary, at least as wide as the teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.objectives.dense_pair import dense_pair
from logitstore.tails import FixedTail
from logitstore.targets import AnyTargets, SampledTargets, Targets, temper


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
    if isinstance(targets, SampledTargets):
        return _estimated(student_NV, targets, temperature)
    if isinstance(targets.tail, FixedTail):
        return _factorised(student_NV, targets, targets.tail, temperature)
    student, teacher = dense_pair(student_NV, targets, temperature)
    probs_NV = teacher.exp()
    # p log p is 0 where p is 0 and log p is -inf
    return temperature**2 * torch.where(probs_NV > 0, probs_NV * (teacher - student), 0.0).sum(-1)


def _factorised(student_NV: Tensor, targets: Targets, tail: FixedTail, temperature: float) -> Tensor:
    """With S the listed ids and p(v) = c w(v) in the tail, log s = log_softmax(z / T):

        KL = sum_S p (log p - log s)  +  sum_tail p log p  -  c (sum_all w log s - sum_S w log s)

    so the tail costs one product with the fixed vector w, and no [N, V] copy of the teacher exists.
    """
    wide = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    student_logprobs_NV = torch.log_softmax(wide / temperature if temperature != 1.0 else wide, -1)
    teacher = temper(targets, temperature)
    weight_V = tail.at(temperature, student_NV.device).weight_V.to(wide.dtype)
    listed_NK = student_logprobs_NV.gather(1, targets.ids_NK)
    probs_NK = teacher.logprobs_NK.exp().to(wide.dtype)
    # p log p and p log s are 0 where p is 0, whatever the logarithms are there
    listed_N = torch.where(probs_NK > 0, probs_NK * (teacher.logprobs_NK.to(wide.dtype) - listed_NK), 0.0).sum(-1)
    weights_NK = teacher.log_weight_NK.exp().to(wide.dtype)
    cross_N = student_logprobs_NV[:, : len(weight_V)] @ weight_V - (weights_NK * listed_NK).sum(-1)
    scale_N = teacher.tail_scale_N.exp().to(wide.dtype)
    tail_N = torch.where(scale_N > 0, teacher.tail_entropy_term_N.to(wide.dtype) - scale_N * cross_N, 0.0)
    return temperature**2 * (listed_N + tail_N)


def _estimated(student_NV: Tensor, targets: SampledTargets, temperature: float) -> Tensor:
    """-H(p) - sum_j w_j log s(j): unbiased because the weights are (Anshumann et al. 2025, section 4)."""
    if temperature != 1:
        raise BadInput(
            f"temperature {temperature:g}: a cache of random samples is right at temperature 1 only. "
            "Train at 1, or dump with another preset."
        )
    wide = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    listed_NK = torch.log_softmax(wide, -1).gather(1, targets.ids_NK)
    weights_NK = targets.weights_NK.to(wide.dtype)
    cross_N = torch.where(weights_NK > 0, weights_NK * listed_NK, 0.0).sum(-1)
    return -targets.entropy_N.to(wide.dtype) - cross_N
