"""Student and teacher side by side as whole distributions: for what has no shorter form. A chunk of rows at a time.

Axes: N rows, V the student's vocabulary, W the teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets, Targets


def kl_between(own_NV: Tensor, other_NV: Tensor) -> Tensor:
    """KL(own || other) of logprobs, [N]; a token without mass on the first side adds nothing, also to the gradient."""
    probs_NV = own_NV.exp()
    # where the probability is 0 both logarithms are taken out, or the gradient would be 0 times infinity
    is_none_NV = probs_NV == 0
    return (probs_NV * (own_NV.masked_fill(is_none_NV, 0.0) - other_NV.masked_fill(is_none_NV, 0.0))).sum(-1)


def reverse_between(student_NV: Tensor, teacher_NV: Tensor, vocabulary: int) -> Tensor:
    """KL(student || teacher) of logprobs, [N], of a student that may know more tokens than the teacher.

    Where the student gives mass to tokens beyond the teacher's vocabulary, the plain one is infinite and its gradient NaN. So
    the student is renormalised over the teacher's tokens, and with s(W) its mass on them, the rest costs what it costs in
    KL(teacher || student):

        KL(s || p) := KL(s / s(W) || p) - log s(W)

    0 only for s = p; the plain one where both know the same tokens.

    Args:
        student_NV: of the student.
        teacher_NV: of the teacher.
        vocabulary: of the teacher; later columns are the student's alone.
    """
    if vocabulary == student_NV.shape[1]:
        return kl_between(student_NV, teacher_NV)
    known_NW = student_NV[:, :vocabulary]
    mass_N1 = known_NW.logsumexp(-1, keepdim=True)
    return kl_between(known_NW - mass_N1, teacher_NV[:, :vocabulary]) - mass_N1[:, 0]


def distribution_of(targets: AnyTargets) -> Targets:
    """The targets, where they give the teacher's distribution.

    Raises:
        BadInput: they are random samples.
    """
    if not isinstance(targets, Targets):
        raise BadInput(
            "a cache of random samples serves forward KL and cross-entropy only. Dump with another preset for this objective."
        )
    return targets


def wide(student_NV: Tensor) -> Tensor:
    """Logits as they are reduced: float32, and float64 stays."""
    return student_NV if student_NV.dtype == torch.float64 else student_NV.float()


def dense_pair(student_NV: Tensor, targets: AnyTargets, temperature: float) -> tuple[Tensor, Tensor]:
    """Logprobs [N, V] of the student and of the teacher at a temperature, float32 (float64 stays).

    Columns of the student beyond the teacher's vocabulary have the teacher's logprob -inf.

    Raises:
        BadInput: the targets are random samples, which do not give a distribution.
    """
    known, wide_NV = distribution_of(targets), wide(student_NV)
    student = torch.log_softmax(wide_NV / temperature if temperature != 1.0 else wide_NV, -1)
    teacher = dense_logprobs(known, temperature).to(wide_NV.dtype)
    padding = student_NV.shape[1] - teacher.shape[1]
    return student, torch.nn.functional.pad(teacher, (0, padding), value=-torch.inf) if padding else teacher
