"""Train with the same trainer and the teacher in the loop, for comparison.

Axes: R positions, N rows (n of a chunk), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from logitstore.dump.teachers.model import ModelTeacher
from logitstore.targets.chunks import chunk_rows
from logitstore.targets.dense import row_dot
from logitstore.train.loader.batch import Batch
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.target import DenseTarget
from logitstore.train.objectives.kernels.weighted_sum import Pull, WeightedSum
from logitstore.train.trainer import DistillTrainer


@dataclass(frozen=True)
class LiveRows:
    """Live rows are the teacher's whole distribution, a chunk of rows at a time."""

    logits_NV: Tensor

    def __getitem__(self, some: slice) -> DenseTarget:
        logprobs_nV = torch.log_softmax(self.logits_NV[some].float(), -1)
        probs_nV = logprobs_nV.exp()
        return DenseTarget(probs_nV, row_dot(probs_nV, logprobs_nV))


class LiveTrainer(DistillTrainer):
    """Train on the teacher's answers about each batch as it comes; the stored answers about its rows are not used."""

    def __init__(self, *, teacher: ModelTeacher, **options: Any) -> None:
        super().__init__(**options)
        self._teacher = teacher

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        batch = Batch(inputs)
        given = batch.model_inputs()
        shown = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        teacher_RV = self._teacher.logits(shown).flatten(0, -2)
        with self.learners[0].precision(self.args.device):
            student_RV = model(**given).logits.flatten(0, -2)
        loss = WeightedSum([Pull("kl", 1.0, 1.0, LiveRows(teacher_RV[batch.rows]))])
        size = chunk_rows(student_RV.shape[1], "cpu")
        return from_logits(loss, student_RV, batch.rows, 1 / len(batch.rows), in_place=True, chunk=size)[0]
