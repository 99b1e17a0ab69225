"""Cross-entropy on the gold tokens, per row.

Axes: N rows, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cross_entropy(student_NV: Tensor, gold_N: Tensor) -> Tensor:
    """-log s(gold) per row, nats; reduced in float32 (float64 stays).

    Args:
        student_NV: raw student logits.
        gold_N: int64 token ids.
    """
    wide = student_NV if student_NV.dtype == torch.float64 else student_NV.float()
    return torch.nn.functional.cross_entropy(wide, gold_N, reduction="none")
