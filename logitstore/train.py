"""`train`: fit a student from a cache; no teacher runs. Reads top to bottom.

cache -> check that the student fits -> split -> loaders -> student -> Trainer -> saved student
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from logitstore.cache.reader import Cache
from logitstore.distill_trainer import DistillTrainer, Report
from logitstore.errors import BadInput, CacheMismatch, one_line, storage_errors
from logitstore.fidelity_report import fidelity_warning
from logitstore.models import load_config, load_weights, pick_device
from logitstore.objectives.from_hidden import LinearHead
from logitstore.objectives.table import check_objective
from logitstore.plans import TrainPlan
from logitstore.reading import check_reading, loaders, selection_for
from logitstore.run_folder import checkpoint_of, conditions, write_summary
from logitstore.stream import BatchStream
from logitstore.students.build import copied, fresh
from logitstore.students.fit import check_student, tokenizer_for
from logitstore.students.output_head import UnknownHead, output_head
from logitstore.students.packing import check_packing
from logitstore.types import ModelRef, Progress, no_progress

TRIED_TOKENS = 16
"""Enough to tell whether the output layer is what its weights say."""


def no_notice(text: str) -> None:
    """The notice of those who do not look."""


def train(
    plan: TrainPlan, progress: Progress = no_progress, notice: Callable[[str], None] = no_notice
) -> dict[str, float]:
    """Train and save the student that `plan` describes.

    Args:
        plan: what to do.
        progress: receives the steps.
        notice: receives what the user should know before it begins, such as how far the cache is from its teacher.

    Returns:
        the last figures logged, those of the held-out samples among them.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be made or loaded, or does not fit the cache.
        BadInput: options that do not go together.
        StorageError: --out cannot be written.
    """
    cache = Cache(plan.cache)
    cache.check_sizes()
    reference = _check(plan, cache)
    selection = selection_for(plan, cache)
    arguments = _arguments(plan)
    chosen = None if selection is None else selection.checksum
    checkpoint = checkpoint_of(plan, arguments.world_size, cache, chosen)
    place = {"rank": arguments.process_index, "world_size": arguments.world_size, "workers": plan.workers}
    train_loader, held_out_loader, reweighting = loaders(plan, cache, reference, selection, place, progress)
    transformers.set_seed(plan.seed)
    student = _student(plan, cache, reference)
    _check_length(student, train_loader)
    if reweighting is not None:
        reweighting.begin(student, arguments.device, checkpoint)
    if plan.packed:
        check_packing(student, str(reference or "the fresh student"))
    head, why_not = _head(student, train_loader)
    trainer = DistillTrainer(
        model=student,
        head=head,
        args=arguments,
        train_loader=train_loader,
        held_out_loader=held_out_loader,
        objective=plan.objective,
        alpha=plan.alpha,
        temperature=plan.temperature,
        autocast=torch.bfloat16 if plan.precision == "bfloat16" else None,
        callbacks=[Report(progress), *([reweighting] if reweighting is not None else [])],
    )
    summary = {
        "cache": cache.manifest.identity,
        "samples": len(cache),
        "selection": chosen,
        "teacher": cache.manifest.teacher.name,
        "loss_from": "hidden states" if trainer.takes_hidden else "logits",
        **conditions(plan, arguments.world_size),
    }
    if plan.alpha > 0 and (warning := fidelity_warning(cache, plan.temperature)) is not None:
        notice(f"warning: {warning}")
    if trainer.takes_hidden:
        notice("note: the loss includes the student's output layer, so its logits never exist whole.")
    else:
        notice(f"note: the loss is taken from the student's logits ({why_not}).")
    with storage_errors(plan.out, then="run the same command with --resume"):
        if trainer.is_world_process_zero():
            write_summary(plan.out, summary)
        result = trainer.train(resume_from_checkpoint=checkpoint)
        loss = trainer.accelerator.reduce(torch.tensor(result.training_loss, device=arguments.device), "mean")
        figures = {"train_loss": float(loss), "steps": float(trainer.state.global_step)} | trainer.evaluate()
        trainer.save_model(str(plan.out))
        if trainer.is_world_process_zero():
            tokenizer_for(cache, reference).save_pretrained(str(plan.out))
            write_summary(plan.out, summary | {"figures": figures, "log": trainer.state.log_history})
    return figures


def _check(plan: TrainPlan, cache: Cache) -> ModelRef | None:
    """Refuse what cannot work before any weights are loaded; the student's reference, None for a fresh one."""
    if plan.out.exists() and not plan.out.is_dir():
        raise BadInput(f"--out {plan.out}: a file stands there. Choose another folder.")
    taken = {plan.cache.resolve()} | ({Path(plan.student).resolve()} if plan.student else set())
    if plan.out.resolve() in taken:
        raise BadInput(f"--out {plan.out}: it is the cache or the student itself. Choose another folder.")
    if cache.manifest.sparsifier.is_estimate and plan.temperature != 1 and plan.alpha > 0:
        raise BadInput(
            f"--temperature {plan.temperature:g}: {plan.cache} holds random samples, which are right at temperature 1 only. "
            "Train at 1, or dump with another preset."
        )
    check_reading(plan, cache)
    if plan.alpha > 0:
        check_objective(plan.objective, cache.manifest.row, plan.temperature)
    changes = _changes(plan)
    if plan.student is None:
        if plan.copy_layers is not None:
            raise BadInput("--copy-layers needs a --student to copy them from.")
        return None
    if changes:
        raise BadInput(
            f"--student {plan.student} has its shape already; --layers, --hidden-size and the like are for a fresh one."
        )
    reference = ModelRef.parse(plan.student)
    if not plan.text:
        check_student(cache, reference)
    return reference


def _changes(plan: TrainPlan) -> dict[str, int]:
    """Entries of the teacher's configuration that a fresh student changes."""
    wanted = {
        "num_hidden_layers": plan.layers,
        "hidden_size": plan.hidden_size,
        "intermediate_size": plan.intermediate_size,
        "num_attention_heads": plan.heads,
        "num_key_value_heads": plan.kv_heads,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _arguments(plan: TrainPlan) -> TrainingArguments:
    settings: dict[str, Any] = {
        "output_dir": str(plan.out),
        "num_train_epochs": plan.epochs,
        "max_steps": plan.max_steps,
        "per_device_train_batch_size": plan.batch_size,
        "gradient_accumulation_steps": plan.accumulate,
        "learning_rate": plan.learning_rate,
        "lr_scheduler_type": plan.scheduler,
        "warmup_steps": plan.warmup,
        "weight_decay": plan.weight_decay,
        "fp16": plan.precision == "float16",
        "use_cpu": pick_device(plan.device).type == "cpu",
        "seed": plan.seed,
        "eval_strategy": "steps" if plan.evaluate_every and plan.holdout else "no",
        "eval_steps": plan.evaluate_every,
        "save_strategy": "steps" if plan.save_every else "epoch",
        "save_steps": plan.save_every or 500,
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # it asks the device for the loss at every step
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
    }
    if plan.precision == "float16" and pick_device(plan.device).type == "cpu":
        raise BadInput("--precision float16 needs a GPU. Use bfloat16 or float32.")
    fixed = settings.keys() - {"save_strategy", "save_total_limit", "logging_steps", "report_to", "disable_tqdm"}
    taken = sorted(plan.trainer.keys() & (fixed | {"dataloader_num_workers"}))
    if taken:
        raise BadInput(f"trainer: '{taken[0]}' is set by an option of train. Use that.")
    try:
        with storage_errors(plan.out):
            return TrainingArguments(**settings | plan.trainer)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the training options do not go together: {one_line(error)}") from error


def _student(plan: TrainPlan, cache: Cache, reference: ModelRef | None) -> PreTrainedModel:
    if reference is None:
        return fresh(cache.manifest.teacher.config, _changes(plan))
    if plan.copy_layers is not None:
        return copied(reference, plan.copy_layers)
    return load_weights(reference, load_config(reference), torch.float32)


def _head(student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
    """The student's output layer, if the loss can take its place, tried on some tokens of the first sample; else why not."""
    tokens = loader.at(0, 0).input_ids[:1, :TRIED_TOKENS]
    try:
        return output_head(student, tokens), "its weights are in pieces"
    except UnknownHead as reason:
        return None, str(reason)


def _check_length(student: PreTrainedModel, loader: BatchStream) -> None:
    limit = getattr(student.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and loader.longest > limit:
        raise CacheMismatch(
            f"the cache has samples of {loader.longest} tokens; the student takes at most {limit}. "
            f"Choose another student, or dump with --max-length {limit}."
        )
