"""A Trainer whose students may be in pieces (FSDP2), on processors too; its checkpoints are those of a student in one piece."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from transformers import Trainer

from logitstore.errors import BadInput
from logitstore.train.ranks.shards import take_states, whole_states

OPTIMIZER_NAME, SCHEDULER_NAME = "optimizer.pt", "scheduler.pt"


class ShardedTrainer(Trainer, ABC):  # type: ignore[misc]
    """A Trainer that shards by FSDP2 on processors as accelerate does on GPUs, and saves what a run without FSDP saves.

    So any number of ranks, with FSDP or without, resumes from a checkpoint.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Make the accelerator. On processors accelerate knows how to shard, and never does."""
        super().create_accelerator_and_postprocess()
        state = self.accelerator.state
        if self.args.fsdp_plugin_args is not None and str(state.distributed_type).endswith("MULTI_CPU"):
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = DistributedType.FSDP
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.is_fsdp_enabled = True

    @property
    def is_sharded(self) -> bool:
        """Whether each rank holds a piece of the student by FSDP2."""
        return bool(self.accelerator.is_fsdp2)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        kept = whole_states(self.optimizer)
        if self.args.should_save:
            torch.save(kept, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_sharded or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        path = Path(checkpoint) / OPTIMIZER_NAME
        if not path.is_file():
            raise BadInput(
                f"--resume: {checkpoint} has no {OPTIMIZER_NAME}: its optimizer was saved in another form. Start again in "
                "another folder."
            )
        take_states(self.optimizer, torch.load(path, map_location="cpu", weights_only=True))
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        if self.is_sharded and resume_from_checkpoint is not None:
            self._take_weights(Path(resume_from_checkpoint))  # while they are whole
        return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)

    @abstractmethod
    def _take_weights(self, checkpoint: Path) -> None:
        """Give the students the weights of a checkpoint."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if self.is_sharded:
            self._add_learned()  # when the optimizer has the pieces of the student
        return super().create_scheduler(num_training_steps, optimizer)

    def _add_learned(self) -> None:
        """Add to the optimizer what is trained beside the student, which is never in pieces."""
