"""LELP: divide each class of a teacher of few classes along what its final states say besides the class.

Axes: N rows, C classes, S finer classes of each, D channels of the teacher, R directions that make its logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from logitstore.errors import BadInput
from logitstore.format.tap_names import FINAL
from logitstore.train.objectives.features.feature import FeatureObjective, Pair, Shapes, Sides
from logitstore.train.objectives.features.projection import Linear


class SubClasses(FeatureObjective):
    """Compute KL(q || softmax(H s)) per row, with q(c, j) = p(c) softmax_j(z_c / tau) (LELP, section 3).

    s is the student's final state and H a linear layer with a bias, of C S finer classes, that learns with it. p is the
    teacher's distribution. Of its final state t, what has no part in the logits is projected onto the S main directions that
    this has over the rows of class c, then turned by one random rotation of S directions, so that all vary about alike, and
    divided by the root of their mean variance: z_c. KL and the paper's cross-entropy have the same gradient.

    Args:
        shapes: shapes of both models.
        subclasses: what `logitstore.train.sidecars.subclasses` says of the teacher.
        count: S.
        tau: temperature of the finer classes.
        seed: of the rotation.

    Raises:
        BadInput: there are not so many directions, or tau is not above 0.
    """

    def __init__(
        self, shapes: Shapes, *, subclasses: Mapping[str, Tensor], count: int = 5, tau: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__()
        classes, most, _ = subclasses["directions"].shape
        if not 1 <= count <= most:
            raise BadInput(
                f"count {count}: the teacher's final state has {most} directions for a class. Give 1 to {most}."
            )
        if tau <= 0:
            raise BadInput(f"tau {tau:g}: give a number above 0.")
        draw = torch.Generator().manual_seed(seed)
        rotation_SS = torch.linalg.qr(torch.randn(count, count, generator=draw, dtype=torch.float64))[0]
        spread_C = subclasses["variance"][:, :count].double().mean(-1).sqrt().clamp(min=1e-12)
        turned_CSD = rotation_SS @ subclasses["directions"][:, :count].double() / spread_C[:, None, None]
        basis_RD = subclasses["basis"].double()
        turned_CSD = turned_CSD - turned_CSD @ basis_RD.T @ basis_RD
        fixed = {
            "weight_CD": subclasses["weight"].double(),
            "bias_C": subclasses["bias"].double(),
            "directions_CSD": turned_CSD,
            "offset_CS": torch.einsum("csd,cd->cs", turned_CSD, subclasses["mean"].double()),
        }
        for name, value in fixed.items():
            self.register_buffer(name, value.float(), persistent=False)
        self.tau = tau
        self.head = Linear(shapes.widths_student[FINAL], classes * count)

    @classmethod
    def pairs(cls, *_layers: int, **_others: Any) -> list[Pair]:
        return [(FINAL, FINAL)]

    def of_counted(self, sides: Sides) -> Tensor:
        teacher_ND = sides.teacher[FINAL]
        fixed = {name: value.to(teacher_ND.dtype) for name, value in self.named_buffers()}
        class_NC = (teacher_ND @ fixed["weight_CD"].T + fixed["bias_C"]).log_softmax(-1)
        along_NCS = torch.einsum("nd,csd->ncs", teacher_ND, fixed["directions_CSD"]) - fixed["offset_CS"]
        target_NQ = (class_NC[:, :, None] + (along_NCS / self.tau).log_softmax(-1)).flatten(1)
        student_NQ = self.head(sides.student[FINAL]).log_softmax(-1)
        found_N: Tensor = (target_NQ.exp() * (target_NQ - student_NQ)).sum(-1)
        return found_N
