"""KL on the listed tokens: renormalised, or with everything unlisted as one token. Both are for comparison."""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets.targets import Targets


def lumped_kl(student_NV: Tensor, targets: Targets) -> Tensor:
    """sum_S p log(p / s) + R log(R / (1 - s(S))) per row at temperature 1, R the stored tail mass.

    By the data processing inequality it is never above KL(p || s) of the full distributions; it needs no tail shape, hence
    temperature 1 only. Without the tail's mass, where the listed tokens are renormalised, it is `renormalised_kl` and no bound.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.

    Returns:
        [N], nats.
    """
    wide = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    normaliser_N = wide.logsumexp(-1)
    listed_NK = wide.gather(1, targets.ids_NK) - normaliser_N[:, None]
    # one more column takes what would be written for empty slots
    places_NK = targets.ids_NK.masked_fill(torch.isneginf(targets.logprobs_NK), wide.shape[1])
    rest_NV = torch.nn.functional.pad(wide, (0, 1), value=-torch.inf).scatter(1, places_NK, -torch.inf)
    student_tail_N = rest_NV.logsumexp(-1) - normaliser_N
    logprobs_NK = targets.logprobs_NK.to(wide.dtype)
    probs_NK = logprobs_NK.exp()
    tail_N = targets.tail_logmass_N.to(wide.dtype)
    mass_N = tail_N.exp()
    return torch.where(probs_NK > 0, probs_NK * (logprobs_NK - listed_NK), 0.0).sum(-1) + torch.where(
        mass_N > 0, mass_N * (tail_N - student_tail_N), 0.0
    )


def renormalised_kl(student_NV: Tensor, targets: Targets, *, temperature: float = 1.0) -> Tensor:
    """T**2 * sum_S p' (log p' - log s) per row, p' the listed probabilities at temperature T divided by their sum.

    The student s is normalised over its whole vocabulary.

    Args:
        student_NV: raw student logits; reduced in float32 (float64 stays).
        targets: N rows.
        temperature: of both sides.

    Returns:
        [N], nats.
    """
    wide = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    listed_NK = torch.log_softmax(wide / temperature, -1).gather(1, targets.ids_NK)
    logprobs_NK = torch.log_softmax(targets.logprobs_NK.to(wide.dtype) / temperature, -1)
    probs_NK = logprobs_NK.exp()
    return temperature**2 * torch.where(probs_NK > 0, probs_NK * (logprobs_NK - listed_NK), 0.0).sum(-1)
