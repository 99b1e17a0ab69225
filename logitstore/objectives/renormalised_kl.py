"""KL on the listed tokens alone, as if nothing else existed: what most tools do, kept for comparison.

Axes: N rows, K kept, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from logitstore.targets import Targets


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
