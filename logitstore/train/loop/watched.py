"""A Trainer that watches its run: it stops where its numbers are no longer finite, counts what it has read, and knows which
weights are in one piece."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from logitstore.train.loop.divergence import SKIPPED, LossWatch, are_finite, diverged
from logitstore.train.ranks.sharded import ShardedTrainer


class WatchedTrainer(ShardedTrainer):
    """A Trainer of transformers that never goes on with, judges or saves a student whose numbers are not finite."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._losses = LossWatch(SKIPPED if self.args.fp16 else 0)

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._losses.see(loss, self.state.global_step + 1)
        return loss

    def trained(self) -> Iterator[nn.Parameter]:
        """Give all weights that are trained."""
        yield from self.model.parameters()

    def check_finite(self, *, weights: bool = True) -> None:
        """Refuse to go on with losses, or with weights, that are no finite numbers. All processes ask at the same time.

        Args:
            weights: whether to look at the weights, too.

        Raises:
            ModelError: names the step.
        """
        step, steps = self._losses.diverged_at(self.accelerator.gather), self.state.max_steps
        what = None if step is None else f"the loss of step {step} of {steps} is no finite number"
        if what is None and weights:
            mine = are_finite(self.trained()).to(self.args.device)
            if not self.accelerator.gather(mine).all():
                what = f"after step {self.state.global_step} of {steps}, weights are no finite numbers"
        if what is not None:
            raise diverged(Path(self.args.output_dir), what, self.args.learning_rate)

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        self.check_finite()
        super()._save_checkpoint(*arguments, **options)

    def _track_num_input_tokens(self, inputs: dict[str, Any]) -> None:
        super()._track_num_input_tokens(_named_for_models(inputs))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        return int(super().floating_point_ops(_named_for_models(inputs)))

    @property
    def mean_loss(self) -> float:
        """The mean over all steps of the run, from the lines of its log; a checkpoint keeps the lines before it."""
        total, done = 0.0, 0
        for entry in self.state.log_history:
            if "loss" in entry:
                total += entry["loss"] * (entry["step"] - done)
                done = entry["step"]
        return total / max(done, 1)

    @cached_property
    def head_is_whole(self) -> bool:
        """True if the weight of an output layer can be had in one piece outside of the model's forward, which it cannot under
        FSDP1, DeepSpeed or DataParallel. Under FSDP2 it is gathered."""
        return self.args.n_gpu <= 1 and (self.weights_are_whole or self.is_sharded)

    @cached_property
    def weights_are_whole(self) -> bool:
        """True if each process has all weights of the students in one piece, which it has not under FSDP or DeepSpeed."""
        kind = str(self.accelerator.distributed_type).rpartition(".")[2]
        return kind in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU")


def _named_for_models(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of a batch by the names that models give their inputs."""
    return {name.removeprefix("inputs."): value for name, value in tensors.items()}
