"""Train students from a cache with the Hugging Face Trainer: its loop, devices, checkpoints and trackers; our batches and
loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, TrainerControl

from logitstore.models.adapter import has_adapter, save_adapter
from logitstore.models.load import load_again
from logitstore.targets.rows import sent
from logitstore.train.learner import Learner
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loop.batches import Batches, schedule_of, weighing
from logitstore.train.loop.best import FindBest, check_known
from logitstore.train.loop.callbacks import CriterionCallback, EpochCallback, EpochSteps, LogBeforeSaving
from logitstore.train.loop.checkpoints import check_schedule
from logitstore.train.loop.watched import WatchedTrainer
from logitstore.train.metrics import evaluate_batches
from logitstore.train.ranks.schedule import Schedule
from logitstore.train.ranks.shards import take_weights, untied

CRITERION_NAME = "criterion.safetensors"
"""The file of a checkpoint that holds what the objectives and the hooks learned or keep."""


class DistillTrainer(WatchedTrainer):
    """Train a student on a criterion, which consists of pulls on its logits and its features; or train several students on
    the same batches.

    The loss is a mean over the rows of a whole optimizer step, over all its batches and ranks, so gradient accumulation and
    the number of processes do not change it. Several students share the reading of the cache and nothing else: the loss is
    the sum of their losses, and each student's gradient is clipped by its own norm.
    """

    def __init__(
        self,
        *,
        train_loader: BatchStream,
        held_out_loader: BatchStream | None,
        learners: Sequence[Learner],
        judge: Callable[..., Any] = evaluate_batches,
        also_save: Sequence[Callable[[Path], None]] = (),
        has_unlabelled: bool = False,
        model: nn.Module | None = None,
        **options: Any,
    ) -> None:
        """Set up the Trainer for these students and batches.

        Args:
            train_loader: the batches of this rank.
            held_out_loader: the batches to judge on, if any.
            learners: the students; several in one process only.
            judge: judges a student on them; see `evaluate_batches`.
            has_unlabelled: whether there are rows without a gold token or label, which have no cross-entropy.
            model: what runs the only student, where it is wrapped.
            also_save: write what else a run goes on from into the folder of a checkpoint.
            options: of `Trainer`.
        """
        self._loader, self._held_out, self.learners = train_loader, held_out_loader, list(learners)
        self._judge, self._also_save = judge, also_save
        self._labelled = torch.zeros((), dtype=torch.int64)
        self._counts, self._weights = weighing((learner.criterion for learner in self.learners), has_unlabelled)
        self._steps = EpochSteps(len(train_loader))
        self.control: TrainerControl
        held_out = None if held_out_loader is None else Batches(held_out_loader)
        students = [learner.student for learner in self.learners]
        if model is None:
            model = students[0] if len(students) == 1 else nn.ModuleList(students)
        super().__init__(model=model, train_dataset=Batches(train_loader), eval_dataset=held_out, **options)
        for learner in self.learners:
            nn.ModuleDict(learner.beside).to(self.args.device)
            if self.args.fp16:
                learner.product_dtype = torch.float16
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self.add_callback(EpochCallback(self._steps, self.args.gradient_accumulation_steps))
        self.add_callback(LogBeforeSaving())
        self.add_callback(FindBest())
        self.add_callback(CriterionCallback(self.criteria, self.accelerator, self.settle))

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return a loader in which one item is one batch. A resumed run skips the steps that are done without reading them."""
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
        """Return the batches of one optimizer step, and how many rows count in them, over all ranks."""
        batches = list(islice(epoch_iterator, num_batches))
        counts = sum((self._counts(batch) for batch in batches), torch.zeros(2, dtype=torch.int64))
        rows, self._labelled = self.accelerator.reduce(sent(counts, device), "sum")
        return batches, rows

    def _prepare_input(self, data: Any) -> Any:
        """Move a batch to the device of this process. The Trainer's own way waits at each tensor for the step before."""
        is_plain = isinstance(data, Tensor) and not self.is_deepspeed_enabled
        return sent(data, self.args.device) if is_plain else super()._prepare_input(data)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return this batch's share of the mean over the step's rows; 0 where no row counts. For several students it is the
        sum."""
        batch = Batch(inputs)
        if num_items_in_batch is None:
            counts = self._counts(inputs)
        else:
            counts = torch.stack([torch.as_tensor(num_items_in_batch).to(self._labelled), self._labelled])
        weights_A, gold_scale_A = self._weights(batch, counts, processes=self.accelerator.num_processes)
        results = [
            learner.loss(
                model if len(self.learners) == 1 else learner.student,
                batch,
                self._loader,
                weights_A,
                self.done,
                head_is_whole=self.head_is_whole,
                needs_output=return_outputs,
                gold_scale_A=gold_scale_A,
                epoch=self._steps.epoch,
                step=self.state.global_step,
            )
            for learner in self.learners
        ]
        total = results[0][0] if len(results) == 1 else torch.stack([loss for loss, _ in results]).sum()
        return (total, results[0][1]) if return_outputs else total

    def trained(self) -> Iterator[nn.Parameter]:
        yield from super().trained()
        yield from self.criteria.parameters()

    @property
    def schedule(self) -> Schedule:
        """Which batches each step takes, over all ranks."""
        return schedule_of(self.args, self._loader)

    @property
    def done(self) -> float:
        """The share of the run that is over, from 0 to 1."""
        return float(self.state.global_step / max(self.state.max_steps, 1))

    def settle(self) -> None:
        """Give the objectives that change by their own loss that loss after an optimizer step, the same on all ranks."""
        for learner in self.learners:
            learner.criterion.zero_grad()  # the Trainer does this only for the students' parameters
            if learner.step_sums:
                learner.criterion.settle(self._means(learner.step_sums).get, self.done)
                learner.step_sums = {}

    def _means(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return sums divided by the number of rows of all ranks, without leaving the device."""
        total = self.accelerator.reduce(torch.stack(list(sums.values())), "sum")
        names = list(sums)
        return dict(zip(names, total / total[names.index("rows")].clamp(min=1), strict=True))

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Log the loss and its terms, as means over the rows of all processes since the last line.

        The Trainer's own sum of losses would stay NaN after one step that is not finite. It also lacks the steps before the
        checkpoint from which a run resumes.
        """
        if "train_loss" in logs:
            logs = logs | {"train_loss": self.mean_loss}
        if "loss" in logs:
            self.check_finite(weights=False)
        for learner in self.learners:
            if "loss" in logs and learner.sums:
                means = self._means(learner.sums)
                values = torch.stack(list(means.values())).tolist()
                named = dict(zip(means, values, strict=True))
                logs = logs | {learner.labelled(name): value for name, value in named.items() if name != "rows"}
                learner.sums = {}
        super().log(logs, *arguments, **options)

    @property
    def criteria(self) -> nn.ModuleDict:
        """The criterion of each student, with all that its objectives learn or keep, and what its hooks have."""
        return nn.ModuleDict({name: each for learner in self.learners for name, each in learner.beside.items()})

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Return the Trainer's own optimizer, with the parameters of the objectives and of the hooks as further groups."""
        is_new = self.optimizer is None
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if is_new and not self.is_sharded:
            self._add_learned()
        return optimizer

    def _add_learned(self) -> None:
        learned = [each for learner in self.learners for each in learner.criterion.parameters()]
        factors = [each for learner in self.learners for each in learner.of_hooks.parameters()]
        for params, decay in ((learned, 0.0), (factors, self.args.weight_decay)):
            if params:
                self.optimizer.add_param_group({"params": params, "weight_decay": decay})

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip each student's gradient by its own norm, and return the largest norm."""
        if len(self.learners) == 1:
            norm: Tensor = super()._clip_grad_norm(model)
            return norm
        return torch.stack(
            [super(DistillTrainer, self)._clip_grad_norm(learner.student) for learner in self.learners]
        ).max()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the student, or the adapter on it; save each of several students in a folder of its name."""
        if len(self.learners) == 1 and not has_adapter(self.learners[0].student):
            super()._save(output_dir, None if state_dict is None else untied(self.learners[0].student, state_dict))
            return
        if not self.args.should_save:
            return  # every rank comes here, and one of them writes
        for learner in self.learners:
            folder = Path(output_dir or self.args.output_dir) / learner.name
            if has_adapter(learner.student):
                save_adapter(learner.student, folder)
            else:
                learner.student.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Take the students' weights, where the checkpoint has all of them and stands where this run would at its step.

        Raises:
            BadInput: it was written in other batches, which the Trainer would take over, or after other samples.
            ModelError: a weight is missing.
        """
        check_schedule(Path(resume_from_checkpoint), self.schedule)
        if self.weights_are_whole:
            self._take_weights(Path(resume_from_checkpoint))
        elif not self.is_sharded:  # those were taken before they were cut
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.weights_are_whole or self.is_sharded:
            self._take_weights(Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()

    def _take_weights(self, checkpoint: Path) -> None:
        """Take all weights of a checkpoint. The Trainer's own way passes over those that are saved under other names."""
        for learner in self.learners:
            load_again(learner.student, checkpoint / learner.name, take_weights)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the states of the optimizer, of the objectives and of the reader. The Trainer writes later the file that
        makes a checkpoint whole."""
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.is_world_process_zero():
            return
        for write in self._also_save:
            write(Path(output_dir))
        if kept := self.criteria.state_dict():
            whole = {name: value.contiguous() for name, value in kept.items()}
            safetensors.torch.save_file(whole, Path(output_dir) / CRITERION_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self.criteria.state_dict():
            kept = safetensors.torch.load_file(Path(checkpoint) / CRITERION_NAME, device=str(self.args.device))
            self.criteria.load_state_dict(kept)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the students on the held-out samples; every rank takes its share. Figures that are not known, such as those
        on labels where there are none, are left out."""
        if self._held_out is None:
            return {}
        self.check_finite()
        metrics: dict[str, float] = {}
        for learner in self.learners:
            figures = vars(self._judged(learner, self._held_out)).items()
            numbers = {name: float(value) for name, value in figures if value is not None and not math.isnan(value)}
            metrics |= {learner.labelled(f"{metric_key_prefix}_{name}"): value for name, value in numbers.items()}
        check_known(self.args.metric_for_best_model, metrics)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _judged(self, learner: Learner, held_out: BatchStream) -> Any:
        """Judge one student; return a record of figures."""
        student: nn.Module = learner.student

        def run(**inputs: Any) -> Any:
            with learner.precision(self.args.device):
                return student(**inputs)

        def add(sums: Tensor) -> Tensor:
            total: Tensor = self.accelerator.reduce(sums, "sum")
            return total

        was_training = student.training
        student.eval()
        figures = self._judge(run, held_out, self._loader.targets, self.args.device, add)
        student.train(was_training)
        return figures
