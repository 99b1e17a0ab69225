"""Train with the same trainer and the teacher in the loop, for comparison.

`python benchmarks/live.py TEACHER OPTIONS` is `logitstore train OPTIONS`, but what a student learns from is the teacher's
whole answer to each batch as it comes. Of the cache only the text is used.

Axes: R positions, N rows (n of a chunk), V vocabulary, D channels.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import torch
from logitstore_cli.main import run
from torch import Tensor

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.models.load import load_config, pick_dtype
from logitstore.targets.chunks import chunk_rows
from logitstore.targets.dense import row_dot
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import Targets
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.kernels.from_hidden import from_hidden
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.objectives.kernels.target import DenseTarget
from logitstore.train.objectives.kernels.weighted_sum import Pull, WeightedSum
from logitstore.train.students.output_head import final_hidden
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
        batch, learner = Batch(inputs), self.learners[0]
        given = batch.model_inputs()
        shown = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        teacher_RV = self._teacher.logits(shown).flatten(0, -2)
        loss = WeightedSum([Pull("kl", 1.0, 1.0, LiveRows(teacher_RV[batch.rows]))])
        if learner.head is not None:
            with learner.precision(self.args.device):
                hidden_RD = final_hidden(model, learner.student, given).flatten(0, 1)
            weight = 1 / len(batch.rows)
            return from_hidden(loss, hidden_RD, learner.head, batch.rows, weight, dtype=learner.autocast)[0]
        with learner.precision(self.args.device):
            student_RV = model(**given).logits.flatten(0, -2)
        size = chunk_rows(student_RV.shape[1], student_RV.device.type)
        return from_logits(loss, student_RV, batch.rows, 1 / len(batch.rows), in_place=True, chunk=size)[0]


class LiveTargets:
    """Ask a causal language model about each batch, and give its whole distribution as targets."""

    def __init__(self, teacher: CausalTeacher, vocabulary: int) -> None:
        head = teacher.head(vocabulary)
        self._teacher, self._tail = teacher, LatentTail(head, torch.zeros(vocabulary))

    def __call__(self, batch: Batch) -> Targets:
        """Return the targets of a batch; what is stored about its rows is not used."""
        shown = {name: value for name, value in batch.model_inputs().items() if isinstance(value, Tensor)}
        _, hidden_BTD = self._teacher.logits_and_hidden(shown)
        hidden_ND = hidden_BTD.flatten(0, 1)[batch.rows].float()
        none_NK = torch.zeros(len(hidden_ND), 0)
        return Targets(none_NK.long(), none_NK, torch.zeros(len(hidden_ND)), self._tail, hidden_ND)


def main(teacher: str, *arguments: str) -> None:
    reference = ModelRef.parse(teacher)
    config = load_config(reference)
    live = LiveTargets(
        CausalTeacher(reference, config, pick_dtype("auto", "cpu"), "cpu"), config.get_text_config().vocab_size
    )
    Loader.targets = lambda _, batch: live(batch)  # type: ignore[assignment,method-assign]
    sys.argv = ["logitstore", "train", *arguments]
    run()


if __name__ == "__main__":
    main(*sys.argv[1:])
