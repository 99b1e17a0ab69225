"""KL of logits in units of their own spread, so that the student need not match how sharp the teacher is.

Axes: N rows, V the student's vocabulary, W the teacher's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import distribution_of, kl_between, wide


def standardised_kl(student_NV: Tensor, targets: AnyTargets, *, temperature: float = 2.0) -> Tensor:
    """T**2 * KL(softmax(z_p / (sigma_p T)) || softmax(z / (sigma T))) per row, each side's sigma its own (Sun et al. 2024).

    sigma is the standard deviation of a row's logits over the teacher's vocabulary, that of a sample (divided by V - 1), as in
    the code of both papers. The paper's logit standardisation takes the mean out as well, which a softmax does not see; for the
    same reason logprobs serve as the teacher's logits. At T = 1 sigma takes the place of the temperature, as in MIX-KD (Choi et
    al. 2023; hchoi71/MIX-KD, distiller_zoo/MIXSTD.py). A row of equal logits is divided by 1.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows. Tokens that have no mass in a row, because its tail has none, are left out of its sigma.
        temperature: of both sides, in units of sigma.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples, or have no tail, so that most of the teacher's logits are not known.
    """
    known, student_NV = distribution_of(targets), wide(student_NV)
    vocabulary = known.tail.vocabulary
    if known.is_cut:
        raise BadInput(
            f"a cache without a tail has the logits of {known.ids_NK.shape[1]} of {vocabulary} tokens, and the spread of all "
            "is needed. Dump with a tail, or use forward_kl."
        )
    teacher_NW = dense_logprobs(known).to(student_NV.dtype)
    teacher_NW = torch.log_softmax(_in_units_of_spread(teacher_NW, vocabulary) / temperature, -1)
    student_NV = torch.log_softmax(_in_units_of_spread(student_NV, vocabulary) / temperature, -1)
    padding = student_NV.shape[1] - vocabulary
    return temperature**2 * kl_between(torch.nn.functional.pad(teacher_NW, (0, padding), value=-torch.inf), student_NV)


def _in_units_of_spread(logits_NV: Tensor, vocabulary: int) -> Tensor:
    """Logits over the standard deviation of the first `vocabulary` of their row; -inf stays out of it, and stays."""
    is_none_NV = torch.isneginf(logits_NV)
    # a quotient of -inf would make NaN of the gradient of the deviation
    logits_NV = logits_NV.masked_fill(is_none_NV, 0.0)
    is_counted_NW, counted_NW = ~is_none_NV[:, :vocabulary], logits_NV[:, :vocabulary]
    count_N1 = is_counted_NW.sum(-1, keepdim=True)
    deviation_NW = (counted_NW - counted_NW.sum(-1, keepdim=True) / count_N1) * is_counted_NW
    variance_N1 = deviation_NW.square().sum(-1, keepdim=True) / (count_N1 - 1).clamp(min=1)
    spread_N1 = torch.where(variance_N1 > 0, variance_N1, 1.0).sqrt()
    return (logits_NV / spread_N1).masked_fill(is_none_NV, -torch.inf)
