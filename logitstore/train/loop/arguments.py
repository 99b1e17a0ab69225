"""The arguments of the Hugging Face Trainer: those that follow from our settings, and those of a section `trainer:`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from transformers import TrainingArguments

from logitstore.errors import BadInput, one_line, storage_errors
from logitstore.models.load import pick_device
from logitstore.settings.train import TrainSettings
from logitstore.train.loop.best import EVALUATIONS, best_model
from logitstore.train.loop.optimizer import check_optimizer
from logitstore.train.loop.packages import package_errors
from logitstore.train.loop.section import Circumstances, check_circumstances, check_section


def training_arguments(settings: TrainSettings, figures: Sequence[str]) -> TrainingArguments:
    """Return the arguments of the Trainer.

    Args:
        settings: of the run.
        figures: names of the figures of the held-out samples; the first is what a run is judged by.

    Raises:
        BadInput: an entry of the section `trainer` has an option of `train`, has no effect, or does not go with another one.
    """
    if settings.report_to and "report_to" in settings.trainer:
        raise BadInput("--report-to with report_to in the section trainer: leave one of them out.")
    if settings.fsdp and settings.trainer.get("fsdp"):
        raise BadInput("--fsdp with fsdp in the section trainer: leave one of them out.")
    if settings.fsdp and _processes() == 1:
        raise BadInput(
            "--fsdp has no effect in one process, which holds the whole student. Start several with torchrun, or leave it out."
        )
    section = check_section(
        settings.trainer
        | ({"report_to": settings.report_to} if settings.report_to is not None else {})
        | ({"fsdp": True} if settings.fsdp else {})
    )
    on_cpu = pick_device(settings.device).type == "cpu"
    training: dict[str, Any] = {
        "output_dir": str(settings.out),
        "num_train_epochs": settings.epochs,
        "max_steps": settings.max_steps,
        "per_device_train_batch_size": settings.batch_size,
        "gradient_accumulation_steps": settings.accumulate,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": settings.scheduler,
        "warmup_steps": settings.warmup,
        "weight_decay": settings.weight_decay,
        "fp16": settings.precision == "float16",
        "use_cpu": on_cpu,
        "seed": settings.seed,
        "eval_strategy": "steps" if settings.holdout else "no",
        "eval_steps": settings.evaluate_every or EVALUATIONS,
        "save_strategy": "steps" if settings.save_every else "epoch",
        "save_steps": settings.save_every or 500,
        "save_total_limit": settings.keep_checkpoints or 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # the filter would ask the device for the loss at every step
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
    }
    if settings.precision == "float16" and on_cpu:
        raise BadInput("--precision float16 needs a GPU. Use bfloat16 or float32.")
    has = Circumstances(
        on_gpu=not on_cpu,
        processes=_processes(),
        holds_out=settings.holdout > 0,
        saves_every=settings.save_every is not None,
        keeps=settings.keep_checkpoints is not None,
    )
    check_circumstances(section, has)
    best = best_model(settings, section, figures)
    try:
        with storage_errors(settings.out), package_errors():
            arguments = TrainingArguments(**training | section | best)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the training options do not go together: {one_line(error)}") from error
    check_optimizer(arguments, section)
    if len(settings.students) > 1 and arguments.world_size > 1:
        raise BadInput("several --student in several processes: train each in a run of its own, or all in one process.")
    if settings.learning_rate_batch is not None:
        samples = settings.batch_size * settings.views_per_step * settings.accumulate * arguments.world_size
        arguments.learning_rate = settings.learning_rate * samples / settings.learning_rate_batch
    return arguments


def _processes() -> int:
    """Return the number of processes that torchrun, or another launcher, has started for this run."""
    return max(int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
