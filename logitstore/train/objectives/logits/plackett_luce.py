"""The teacher's order of tokens as a run of choices, gold first, each as important as the teacher thinks its token: PLD.

Axes: N rows, K listed, L of an order (gold and listed), V the student's vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives.kernels.dense_pair import distribution_of, wide
from logitstore.train.objectives.logits.divergences import FLOOR


def plackett_luce(
    student_NV: Tensor, targets: AnyTargets, gold_N: Tensor, *, temperature: float = 1.0, listed: int = 64
) -> Tensor:
    """sum_k alpha_k (log sum_{l >= k} exp z_l - z_k) per row (PLD, Bassam et al. 2025).

    The tokens are ordered: the gold one, then the others that are listed by falling probability, then all the rest. alpha_k is
    the teacher's probability of the k-th at temperature T. The first term is alpha times the cross-entropy of the gold token.
    Terms of tokens that are not listed are left out; together they weigh the tail mass at T at most. There is no factor T**2.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        gold_N: int64, the tokens that follow.
        temperature: of the teacher alone.
        listed: how many of the most probable tokens are ordered where the targets list none.

    Returns:
        [N], nats.

    Raises:
        BadInput: the targets are random samples.
    """
    known, logits_NV = distribution_of(targets), wide(student_NV)
    teacher_NV = dense_logprobs(known, temperature)
    if known.ids_NK.shape[1]:
        sorted_NK, order_NK = known.logprobs_NK.sort(descending=True, stable=True)
        ids_NK, is_empty_NK = known.ids_NK.gather(1, order_NK), torch.isneginf(sorted_NK)
    else:
        sorted_NK, ids_NK = teacher_NV.topk(min(listed, teacher_NV.shape[1]))
        is_empty_NK = torch.isneginf(sorted_NK)
    ids_NL = torch.cat([gold_N[:, None], ids_NK], 1)
    is_none_NL = torch.nn.functional.pad(is_empty_NK | (ids_NK == gold_N[:, None]), (1, 0))
    weights_NL = teacher_NV.gather(1, ids_NL).exp().to(logits_NV.dtype).masked_fill(is_none_NL, 0.0)

    # log 0 would make NaN of the gradient of a sum of nothing
    logprobs_NV = torch.log_softmax(logits_NV, -1).clamp(min=FLOOR)
    ordered_NL = logprobs_NV.gather(1, ids_NL).masked_fill(is_none_NL, FLOOR)
    # one more column takes what would be written for slots that hold no token
    places_NL = ids_NL.masked_fill(is_none_NL, logits_NV.shape[1])
    rest_NV = torch.nn.functional.pad(logprobs_NV, (0, 1), value=FLOOR).scatter(1, places_NL, FLOOR)
    left_NL = torch.cat([ordered_NL, rest_NV.logsumexp(-1, keepdim=True)], 1).flip(1).logcumsumexp(1).flip(1)[:, :-1]
    return (weights_NL * (left_NL - ordered_NL)).sum(-1)
