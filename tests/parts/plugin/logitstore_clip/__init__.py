"""A hook of a student from another package: no weight is larger than a limit."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from logitstore.train.students.hooks.hook import StudentHook


class Clip(StudentHook):
    """Keep all weights from -limit to limit."""

    def __init__(self, *, limit: float) -> None:
        self.limit = limit

    def prepare(self, student: PreTrainedModel) -> str:
        self.after_step(student)
        return f"no weight is larger than {self.limit:g}"

    @torch.no_grad()
    def after_step(self, student: nn.Module) -> None:
        for weight in student.parameters():
            weight.clamp_(-self.limit, self.limit)
