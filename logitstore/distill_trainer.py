"""The Hugging Face Trainer, fed from a cache: its loop, devices, checkpoints and trackers; our batches and our loss."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from logitstore.batch import Batch
from logitstore.metrics import Evaluation, evaluate_batches
from logitstore.objectives.from_hidden import LinearHead, from_hidden
from logitstore.objectives.from_logits import from_logits
from logitstore.objectives.table import CLOSED_FORM, loss_of
from logitstore.stream import BatchStream
from logitstore.students.output_head import final_hidden
from logitstore.text_metrics import TextEvaluation, evaluate_text
from logitstore.types import Progress, Step


class DistillTrainer(Trainer):  # type: ignore[misc]
    """Trains a student on alpha * objective + (1 - alpha) * cross-entropy; the objective is forward KL unless another is named.

    The loss is a mean over the rows of a whole optimizer step, over all its batches and ranks, so gradient accumulation
    and the number of processes do not change it.
    """

    def __init__(
        self,
        *,
        train_loader: BatchStream,
        held_out_loader: BatchStream | None,
        alpha: float,
        temperature: float,
        objective: str = CLOSED_FORM,
        head: LinearHead | None = None,
        autocast: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        """
        Args:
            train_loader: the batches of this rank.
            held_out_loader: the batches to judge on, if any.
            objective: by its name in `OBJECTIVES`.
            alpha: weight of the objective; the cross-entropy on the gold tokens has the rest.
            temperature: of the objective.
            head: the student's output layer, if it is known to be linear: the loss is then taken from the hidden states, and
                the logits of a batch never exist whole.
            autocast: number format of the student's forward and backward pass. The Trainer's own bf16 would turn the
                logits into a float32 copy of [B, T, V]; here they stay as they are until a few rows are reduced.
            options: of `Trainer`.
        """
        self._loader, self._held_out, self.head = train_loader, held_out_loader, head
        self._sums: dict[str, Tensor] = {}
        self._objective = objective
        self._alpha, self._temperature, self._autocast = alpha, temperature, autocast
        self._steps = _EpochSteps(len(train_loader))
        self.control: TrainerControl
        held_out = None if held_out_loader is None else _Batches(held_out_loader)
        super().__init__(train_dataset=_Batches(train_loader), eval_dataset=held_out, **options)
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(_TellEpoch(self._steps, self.args.gradient_accumulation_steps))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """One item is one batch; steps that a resumed run has behind it are skipped without being read."""
        return DataLoader(
            self.train_dataset,
            batch_sampler=self._steps,
            collate_fn=itemgetter(0),
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    def num_examples(self, dataloader: DataLoader[Any]) -> int:
        return self._loader.count

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of one optimizer step, and how many rows count in them, over all ranks."""
        batches = [next(epoch_iterator) for _ in range(num_batches)]
        rows = sum((batch["row_mask"].sum() for batch in batches), torch.zeros((), dtype=torch.int64))
        return batches, self.accelerator.reduce(rows.to(device), "sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """This batch's share of the mean over the step's rows; 0 where no row counts."""
        batch = Batch.of(inputs)
        targets = self._loader.targets(batch) if self._alpha > 0 else None
        loss = loss_of(self._objective, targets, batch.gold, alpha=self._alpha, temperature=self._temperature)
        count = batch.row_mask.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        # DDP averages gradients over the ranks; the count is over all of them already
        weights_N = batch.row_mask * (self.accelerator.num_processes / count.clamp(min=1))
        if batch.weight is not None:
            weights_N = weights_N * batch.weight
        if self.head is not None and self.takes_hidden and not return_outputs:
            with self._precision():
                hidden_BTD = final_hidden(model, self.accelerator.unwrap_model(model), batch.model_inputs())
            hidden_RD = hidden_BTD.flatten(0, 1)
            total, lines = from_hidden(loss, hidden_RD, self.head, batch.rows, weights_N, dtype=self._product_dtype)
            return self._counted(total, lines, loss.names, batch)
        with self._precision():
            output = model(**batch.model_inputs())
        may_spoil = self.head is not None and not return_outputs
        total, lines = from_logits(loss, output.logits.flatten(0, 1), batch.rows, weights_N, in_place=may_spoil)
        self._counted(total, lines, loss.names, batch)
        return (total, output) if return_outputs else total

    def _counted(self, total: Tensor, lines_LN: Tensor, names: list[str], batch: Batch) -> Tensor:
        """Adds the loss and what it is made of to the sums for the next line of the log, on the device."""
        counted = zip(["rows", "loss", *names], [torch.ones_like(lines_LN[0]), *lines_LN], strict=True)
        for name, line_N in counted:
            added = torch.where(batch.row_mask, line_N, 0.0).sum()
            self._sums[name] = self._sums[name] + added if name in self._sums else added
        return total

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """The loss and what it is made of, as means over the rows of all processes since the last line.

        The Trainer's own sum of losses would stay NaN after one step that is not finite.
        """
        if "loss" in logs and self._sums:
            sums = self.accelerator.reduce(torch.stack(list(self._sums.values())), "sum").tolist()
            rows, *values = sums
            names = list(self._sums)[1:]
            logs = logs | {name: value / max(rows, 1.0) for name, value in zip(names, values, strict=True)}
            self._sums = {}
        super().log(logs, *arguments, **options)

    def _precision(self) -> torch.autocast:
        device = self.args.device.type
        return torch.autocast(device, dtype=self._autocast, enabled=self._autocast is not None)

    @property
    def _product_dtype(self) -> torch.dtype | None:
        """Of the products with the output layer."""
        return torch.float16 if self.args.fp16 else self._autocast

    @cached_property
    def takes_hidden(self) -> bool:
        """Whether the loss is taken from hidden states: the output layer is known, and its weight in one piece outside of the
        model's forward, which it is not under FSDP, DeepSpeed or DataParallel."""
        kind = str(self.accelerator.distributed_type).rpartition(".")[2]
        is_whole = self.args.n_gpu <= 1 and kind in ("NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU")
        return self.head is not None and is_whole

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Judge the student on the held-out samples; every rank takes its share."""
        if self._held_out is None:
            return {}
        student = self.accelerator.unwrap_model(self.model)

        def run(**inputs: Any) -> Any:
            with self._precision():
                return student(**inputs)

        was_training = student.training
        student.eval()
        device = self.args.device

        def add(sums: Tensor) -> Tensor:
            total: Tensor = self.accelerator.reduce(sums, "sum")
            return total

        found: Evaluation | TextEvaluation = (
            evaluate_batches(run, self._held_out, self._loader.targets, device, add)
            if self._loader.has_targets
            else evaluate_text(run, self._held_out, device, add, size=self._held_out.text_bytes)
        )
        student.train(was_training)
        known = {name: value for name, value in vars(found).items() if value is not None}
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in known.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Batches(Dataset[dict[str, Tensor]]):
    """The loader's batches by (epoch, step), as dictionaries of tensors, which the Trainer knows how to move."""

    def __init__(self, loader: BatchStream) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.count

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        return self._loader.at(*where).tensors()


class _EpochSteps:
    """A batch sampler that names each step of the current epoch."""

    def __init__(self, steps: int) -> None:
        self.epoch, self._count = 0, steps

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(self.epoch, step)] for step in range(self._count)])


class _TellEpoch(TrainerCallback):  # type: ignore[misc]
    """Tells the sampler which epoch begins, also when training resumes in the middle of one."""

    def __init__(self, steps: _EpochSteps, accumulation: int) -> None:
        self._steps = steps
        self._updates = -(-len(steps) // accumulation)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._steps.epoch = state.global_step // self._updates


class Report(TrainerCallback):  # type: ignore[misc]
    """Passes on how training goes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._note = ""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any
    ) -> None:
        self._note = (
            " ".join(
                f"{name} {logs[name]:.4f}" for name in ("loss", "eval_kl", "eval_nats_per_byte") if name in (logs or {})
            )
            or self._note
        )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.is_world_process_zero:
            self._progress(Step(stage="train", done=state.global_step, total=state.max_steps, note=self._note))
