"""ND loss: make a final hidden state as long as the teacher's, along the mean of the teacher's states before the same
token.

Axes: N rows, V vocabulary, D channels of the teacher.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.format.tap_names import FINAL
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.projection import Projections


class NormDirection(FeatureObjective):
    """Compute 1 - <s, c> / (|c| max(|s|, |t|)) per row (KD++, Wang et al. 2023: L_nd).

    s is the student's final hidden state, t the teacher's, and c the mean of the teacher's over all rows with the same gold
    token. While s is shorter than t, the loss rewards length along c; from there on it rewards the direction alone.

    Args:
        shapes: shapes of both models; where widths differ, a learned linear map takes s to the teacher's width.
        means_VD: c of every token, any float dtype; a row of zeros or NaN for a token that was never seen. The loss is 0 on
            rows of such a token, and on rows without a gold token or label. The means move with the module and are not part
            of its state_dict.

    Raises:
        BadInput: the means are not as wide as the teacher's final hidden state.
    """

    means_VD: Tensor

    def __init__(self, shapes: Shapes, *, means_VD: Tensor) -> None:
        super().__init__()
        width = shapes.widths_teacher["final"]
        if means_VD.ndim != 2 or means_VD.shape[1] != width:
            raise BadInput(
                f"class means of shape {list(means_VD.shape)}: the teacher's final hidden state has {width} channels. "
                f"Give one row of {width} for each token of the vocabulary."
            )
        self.register_buffer("means_VD", means_VD, persistent=False)
        self.projections = Projections(shapes, self.pairs(shapes.student_layers, shapes.teacher_layers))

    @classmethod
    def pairs(cls, *_layers: int, **_others: Any) -> list[Pair]:
        return [(FINAL, FINAL)]

    def of_counted(self, sides: Sides) -> Tensor:
        ((student_ND, teacher_ND),) = self.projections(sides)
        means_ND = self.means_VD[sides.gold_N.clamp(min=0)].to(student_ND.dtype)
        direction_ND = torch.nn.functional.normalize(means_ND, dim=-1)
        is_seen_N = (sides.gold_N >= 0) & means_ND.isfinite().all(-1) & means_ND.any(-1)
        along_N = (student_ND * direction_ND.masked_fill(~is_seen_N[:, None], 0.0)).sum(-1)
        length_N = torch.maximum(student_ND.norm(dim=-1), teacher_ND.norm(dim=-1))
        loss_N = 1 - along_N / length_N.clamp(min=torch.finfo(length_N.dtype).tiny)
        return torch.where(is_seen_N, loss_N, 0.0)
