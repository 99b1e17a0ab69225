"""The Trainer of transformers, and any that is built on it, with a cache in place of its data and its loss."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PrinterCallback, TrainingArguments

from logitstore.core.place import Place
from logitstore.core.registry import suggest
from logitstore.errors import BadInput
from logitstore.integrations.distiller import Distiller, log_notice
from logitstore.integrations.plan import ACCEPTED
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.loop.best import HIGHER_IS_BETTER
from logitstore.train.loop.checkpoints import SUMMARY_NAME
from logitstore.train.run_folder import ADDED, conditions, write_summary
from logitstore.train.trainer import DistillTrainer

IN_ARGUMENTS = {
    "out": "output_dir",
    "batch_size": "per_device_train_batch_size",
    "epochs": "num_train_epochs",
    "max_steps": "max_steps",
    "learning_rate": "learning_rate",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "weight_decay": "weight_decay",
    "accumulate": "gradient_accumulation_steps",
    "precision": "bf16 or fp16",
    "evaluate_every": "eval_strategy and eval_steps",
    "save_every": "save_steps",
    "keep_checkpoints": "save_total_limit",
    "seed": "data_seed or seed",
    "device": "use_cpu",
    "workers": "dataloader_num_workers",
}
"""What TrainingArguments call settings of `train`."""


NOT_TAKEN = {
    "train_dataset": "the batches come from the cache",
    "eval_dataset": "holdout says which samples of the cache are held out",
    "data_collator": "the batches come from the cache",
    "compute_loss_func": "the loss is that of the objective",
    "compute_metrics": "the figures of the held-out samples are always the same",
    "preprocess_logits_for_metrics": "the figures of the held-out samples are always the same",
    "model_init": "the student is given as model",
    "formatting_func": "the texts are in the cache",
}
"""Arguments of Trainers that would change nothing, with the reason."""


WITHOUT_EFFECT = {
    "label_smoothing_factor": "the loss is that of the objective",
    "auto_find_batch_size": "batches come from the cache",
    "train_sampling_strategy": "batches come from the cache",
    "dataloader_drop_last": "batches come from the cache",
    "dataloader_prefetch_factor": "batches come from the cache",
    "dataloader_persistent_workers": "batches come from the cache",
    "ignore_data_skip": "a resumed run never reads again what it has read",
    "prediction_loss_only": "the figures of the held-out samples are always the same",
    "batch_eval_metrics": "the figures of the held-out samples are always the same",
    "include_for_metrics": "the figures of the held-out samples are always the same",
    "eval_accumulation_steps": "the figures of the held-out samples are always the same",
    "bf16_full_eval": "the student is judged as it is trained",
    "fp16_full_eval": "the student is judged as it is trained",
}
"""Training arguments that would change nothing, with the reason."""


class CachedTeacherMixin(DistillTrainer):
    """The mixin puts a cache into a Trainer: `class MyTrainer(CachedTeacherMixin, Trainer)`.

    Its batches are those of the cache, its loss is that of `logitstore train` on the same batches, and its evaluations give
    the figures of `logitstore evaluate` on the held-out samples, such as `eval_kl`. What the other class does besides stays:
    its optimizer, its callbacks, its checkpoints. A run resumes in the middle of an epoch; under torchrun each process reads
    its share.
    """

    def __init__(
        self,
        model: nn.Module | str,
        args: TrainingArguments | None = None,
        *,
        cache: Cache | Place,
        recipe: str | Path | None = None,
        notice: Callable[[str], None] = log_notice,
        **options: Any,
    ) -> None:
        """Check that the student fits the cache, and set up the Trainer.

        Args:
            model: the student, a model of transformers, perhaps with adapters of peft; or its folder or hub name, which is
                loaded in float32.
            args: of the Trainer. Per-device batch size, accumulation, seed and number format are taken from them.
            cache: the cache to learn from.
            recipe: the name of a recipe, or a YAML file with a section `train`.
            notice: receives what the user should know; by default it is logged by the name `logitstore`.
            options: settings of `train` about the loss and what is read, such as `alpha`, `objective`, `holdout`; and what
                the other class takes.

        Raises:
            BadInput: a setting or an argument is impossible, or would change nothing.
            CacheMismatch, ModelError: the student does not fit the cache.
        """
        self._check_bases()
        for name, reason in NOT_TAKEN.items():
            if options.get(name) is not None:
                raise BadInput(f"{name}: it has no effect here: {reason}. Leave it out.")
        arguments = copy.copy(args) if args is not None else self.default_arguments()
        check_arguments(arguments, WITHOUT_EFFECT)
        made_by = [vars(each)["__init__"] for each in type(self).__mro__ if "__init__" in vars(each)]
        taken = {name for each in made_by for name in inspect.signature(each).parameters}
        of_trainer = {name: options.pop(name) for name in taken - TrainSettings.model_fields.keys() & options.keys()}
        tokenizer = of_trainer.get("processing_class")
        self.distiller = Distiller(
            model,
            cache,
            batch_size=arguments.per_device_train_batch_size,
            recipe=recipe,
            tokenizer=tokenizer if hasattr(tokenizer, "get_vocab") else None,
            seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
            rank=arguments.process_index,
            world_size=arguments.world_size,
            workers=max(arguments.dataloader_num_workers, 1),
            precision="bfloat16" if arguments.bf16 else "float16" if arguments.fp16 else "float32",
            notice=notice,
            elsewhere={"student": "model"}
            | {name: f"{there} of the training arguments" for name, there in IN_ARGUMENTS.items()},
            loop={"accumulate": arguments.gradient_accumulation_steps},
            **options,
        )
        _set_best(arguments, self.distiller)
        if arguments.ddp_find_unused_parameters is None:
            arguments.ddp_find_unused_parameters = False  # every parameter has a gradient in each step
        super().__init__(
            model=self.distiller.model,
            args=arguments,
            train_loader=self.distiller.train,
            held_out_loader=self.distiller.held_out,
            learners=[self.distiller.learner],
            judge=self.distiller.data.judge,
            also_save=[self._save_conditions],
            has_unlabelled=self.distiller.data.unlabelled > 0,
            **of_trainer,
        )
        if self.model is not self.distiller.model:  # the Trainer has added adapters
            self.distiller.take_head()
        if self.args.disable_tqdm:
            self.add_callback(PrinterCallback)

    @classmethod
    def default_arguments(cls) -> TrainingArguments:
        """Return the training arguments of a Trainer that was given none."""
        return TrainingArguments("tmp_trainer")

    needs_dataset: bool = False
    """True for Trainers that take no data set but one of the package datasets."""

    def _check_bases(self) -> None:
        its = next((each for each in type(self).__mro__ if each.__module__.startswith("trl.")), None)
        if its is not None and not self.needs_dataset:
            raise BadInput(
                f"{type(self).__name__}: {its.__name__} of TRL looks into its data set. Build on DistillSFTTrainer of "
                "logitstore.integrations.trl instead."
            )

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate the student on the held-out samples of the cache.

        Raises:
            BadInput: a data set is given.
        """
        if eval_dataset is not None:
            raise BadInput(f"eval_dataset: it has no effect here: {NOT_TAKEN['eval_dataset']}. Leave it out.")
        return super().evaluate(None, ignore_keys, metric_key_prefix)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the student, or the adapter on it, with its tokenizer or image processor."""
        if self.model is self.distiller.student:
            super()._save(output_dir, state_dict)
        else:
            super(DistillTrainer, self)._save(output_dir, state_dict)  # as peft saves what it wraps
        folder = Path(output_dir or self.args.output_dir)
        if self.args.should_save and self.processing_class is None:
            self.distiller.save_beside(folder)
        elif self.args.should_save:
            self.processing_class.save_pretrained(str(folder))

    def _conditions(self) -> dict[str, Any]:
        """Return what a run must have in common with the one that it resumes."""
        mine = self.distiller
        about = {"cache": mine.cache.manifest.identity, "samples": len(mine.cache), "selection": mine.selection}
        found = conditions(mine.settings, self.args.world_size)
        decided = (*ACCEPTED, "batch_size", "accumulate", "seed", "precision")
        plan = {name: value for name, value in found["plan"].items() if name in decided}
        return about | found | {"plan": plan}

    def _save_conditions(self, folder: Path) -> None:
        write_summary(folder, self._conditions())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Take the student's weights, where the run of the checkpoint had this cache and this loss.

        Raises:
            BadInput: it had others.
        """
        kept = Path(resume_from_checkpoint) / SUMMARY_NAME
        if not kept.is_file():
            raise BadInput(
                f"{resume_from_checkpoint}: its run did not learn from a cache, so it cannot go on from one."
            )
        refuse_other(json.loads(kept.read_text(encoding="utf-8")), self._conditions(), resume_from_checkpoint)
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def check_arguments(arguments: TrainingArguments, without_effect: Mapping[str, str]) -> None:
    """Refuse training arguments that are set and would change nothing, and several GPUs in one process.

    Raises:
        BadInput: names the first.
    """
    usual = {each.name: each.default for each in fields(arguments)}
    for name, reason in without_effect.items():
        value = getattr(arguments, name, None)
        if name in usual and value != usual[name] and value not in (None, [], {}):
            raise BadInput(f"{name}={value}: it has no effect here: {reason}. Leave it out.")
    if arguments.n_gpu > 1:
        raise BadInput(
            f"{arguments.n_gpu} GPUs in one process: start one process for each with torchrun --nproc-per-node "
            f"{arguments.n_gpu}, or give one GPU with CUDA_VISIBLE_DEVICES."
        )


def _set_best(arguments: TrainingArguments, distiller: Distiller) -> None:
    """Judge the best model by a figure that there is, and in its own direction; by the first where none is named.

    Raises:
        BadInput: there is no such figure, or nothing is held out.
    """
    judges = arguments.load_best_model_at_end or arguments.metric_for_best_model is not None
    if distiller.held_out is None and (judges or arguments.eval_strategy != "no"):
        what = "load_best_model_at_end" if judges else f"eval_strategy='{arguments.eval_strategy.value}'"
        raise BadInput(f"{what} with holdout=0: there is nothing to evaluate on. Choose a holdout above 0.")
    if not judges:
        return
    named = str(arguments.metric_for_best_model or "loss").removeprefix("eval_")
    name = distiller.figures[0] if named == "loss" else named
    if name not in distiller.figures:
        raise BadInput(f"metric_for_best_model={named}: no such figure. {suggest(named, distiller.figures)}")
    arguments.metric_for_best_model = f"eval_{name}"
    arguments.greater_is_better = name in HIGHER_IS_BETTER


def refuse_other(before: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    """Refuse to go on with a run that had another cache, loss or order.

    Args:
        before: what a checkpoint keeps of its run.
        now: the same of this run.
        where: the checkpoint.

    Raises:
        BadInput: names the first difference.
    """
    old = {**before, **before.get("plan", {})}
    for name, value in {**now, **now.get("plan", {})}.items():
        if name == "plan" or (earlier := old.get(name, ADDED.get(name, value))) == json.loads(json.dumps(value)):
            continue
        raise BadInput(f"{where}: its run began with {name} = {earlier}, not {value}. Give the same.")
