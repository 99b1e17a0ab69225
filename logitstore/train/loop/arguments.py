"""The arguments of the Hugging Face Trainer: those that follow from our settings, and those of a recipe's `trainer:` section.

Every argument of transformers is one of three kinds: it has an option of `train`, it has no effect here, or it is passed on.
The first two are refused by name, so that what is accepted has its effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from importlib.util import find_spec
from typing import Any

from transformers import TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line, storage_errors
from logitstore.models.load import pick_device
from logitstore.settings.train import TrainSettings

_BATCHES = "batches come from the cache"
_LOSS = "the loss is that of the objective"
_FIGURES = "the figures of the held-out samples are always the same"
_ONCE = "train always trains, and judges on the held-out samples"

HAVE_OPTIONS = {
    "output_dir": "--out",
    "per_device_train_batch_size": "--batch-size",
    "num_train_epochs": "--epochs",
    "max_steps": "--max-steps",
    "learning_rate": "--learning-rate",
    "lr_scheduler_type": "--scheduler",
    "warmup_steps": "--warmup",
    "weight_decay": "--weight-decay",
    "gradient_accumulation_steps": "--accumulate",
    "bf16": "--precision",
    "fp16": "--precision",
    "eval_strategy": "--evaluate-every and --holdout",
    "eval_steps": "--evaluate-every",
    "save_steps": "--save-every",
    "save_total_limit": "--keep-checkpoints",
    "seed": "--seed",
    "use_cpu": "--device",
    "per_device_eval_batch_size": "--batch-size",
    "dataloader_num_workers": "--workers",
    "dataloader_prefetch_factor": "--workers",
    "dataloader_persistent_workers": "--workers",
    "dataloader_multiprocessing_context": "--workers",
    "resume_from_checkpoint": "--resume",
}
"""Arguments that an option of `train` sets, with the option."""


NO_EFFECT = {
    "label_smoothing_factor": _LOSS,
    "prediction_loss_only": _FIGURES,
    "eval_do_concat_batches": _FIGURES,
    "eval_use_gather_object": _FIGURES,
    "eval_accumulation_steps": _FIGURES,
    "include_for_metrics": _FIGURES,
    "batch_eval_metrics": _FIGURES,
    "bf16_full_eval": _FIGURES,
    "fp16_full_eval": _FIGURES,
    "auto_find_batch_size": _BATCHES,
    "data_seed": _BATCHES,
    "dataloader_drop_last": _BATCHES,
    "dataloader_in_order": _BATCHES,
    "ignore_data_skip": _BATCHES,
    "remove_unused_columns": _BATCHES,
    "label_names": _BATCHES,
    "train_sampling_strategy": _BATCHES,
    "length_column_name": _BATCHES,
    "average_tokens_across_devices": "the loss is always a mean over the rows of all processes",
    "logging_nan_inf_filter": "a loss that is not finite is always logged",
    "ddp_find_unused_parameters": "every parameter has a gradient in each step",
    "do_train": _ONCE,
    "do_eval": _ONCE,
    "do_predict": _ONCE,
    "local_rank": "torchrun sets it",
}
"""Arguments that would change nothing here, with the reason."""


def check_trainer_section(given: dict[str, Any]) -> None:
    """Refuse arguments of a `trainer:` section that transformers does not know, or that have no effect here.

    Raises:
        BadInput: names the first.
    """
    known = [each.name for each in fields(TrainingArguments)]
    for name in given:
        if name in HAVE_OPTIONS:
            raise BadInput(f"trainer: '{name}' is set by {HAVE_OPTIONS[name]} of train. Use that.")
        if name in NO_EFFECT:
            raise BadInput(f"trainer: '{name}' has no effect here: {NO_EFFECT[name]}. Leave it out.")
        if name not in known:
            usable = [each for each in known if each not in HAVE_OPTIONS and each not in NO_EFFECT]
            raise BadInput(f"trainer: transformers has no training argument '{name}'. {suggest(str(name), usable)}")
    _check_packages(given)


def _check_packages(given: dict[str, Any]) -> None:
    """Refuse what needs a package that is not installed, before transformers remembers it for the whole process."""
    if given.get("deepspeed") and find_spec("deepspeed") is None:
        raise BadInput("trainer: 'deepspeed' needs the package deepspeed. Install it, or leave the entry out.")
    asked = given.get("report_to") or []
    for name in [asked] if isinstance(asked, str) else asked:
        if name in ("none", "all"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise BadInput(
                f"trainer: report_to '{name}': no such tracker. {suggest(name, list(INTEGRATION_TO_CALLBACK))}"
            )
        if name != "flyte" and name not in get_available_reporting_integrations():
            raise BadInput(
                f"trainer: report_to '{name}' needs the package of {name}. Install it, or leave the entry out."
            )


HIGHER_IS_BETTER = ("accuracy", "top5_accuracy", "agreement", "acceptance")
"""Figures of which a student has more when it is better; of all others less is better."""


def best_model(given: dict[str, Any], figures: Iterable[str], *, students: int, saves: bool) -> dict[str, Any]:
    """Return the arguments by which the best checkpoint is known, where a `trainer:` section asks for it.

    Args:
        given: the section.
        figures: names of the figures of the held-out samples; the first is what a run is judged by. Empty without any.
        students: number of students.
        saves: whether --save-every is given.

    Raises:
        BadInput: nothing is held out, there is no such figure, or there are several students.
    """
    asked = [name for name in ("load_best_model_at_end", "metric_for_best_model") if given.get(name)]
    if given.get("save_strategy") == "best":
        asked.append("save_strategy")
    names = list(figures)
    if not asked:
        if given.get("greater_is_better") is not None:
            raise BadInput("trainer: 'greater_is_better' has no effect without load_best_model_at_end. Leave it out.")
        return {}
    if not names:
        raise BadInput(f"trainer: '{asked[0]}' needs held-out samples to judge by. Choose a --holdout above 0.")
    if students > 1:
        raise BadInput(
            f"trainer: '{asked[0]}' with several --student: each would have another best step. Train each alone."
        )
    metric = str(given.get("metric_for_best_model") or names[0]).removeprefix("eval_")
    if metric not in names:
        raise BadInput(f"trainer: metric_for_best_model '{metric}': no such figure. {suggest(metric, names)}")
    found: dict[str, Any] = {"metric_for_best_model": f"eval_{metric}"}
    if given.get("greater_is_better") is None:
        found["greater_is_better"] = metric in HIGHER_IS_BETTER
    if given.get("load_best_model_at_end") and "save_strategy" not in given:
        found["save_strategy"] = "steps"  # the best checkpoint is one that was judged
        if not saves:
            found["save_steps"] = BY_EVALUATION
    return found


BY_EVALUATION = "as often as it is evaluated"
"""Stands for the interval of the evaluations."""


@contextmanager
def package_errors() -> Iterator[None]:
    """Raise BadInput in place of what transformers raises for a package that is not installed.

    Raises:
        BadInput: names what to install.
    """
    try:
        yield
    except (ImportError, RuntimeError, ValueError) as error:
        # trackers raise RuntimeError, optimizers ValueError or ImportError
        if isinstance(error, ImportError) or re.search(r"(not|to be) installed|pip install|Please install", str(error)):
            raise BadInput(
                f"trainer: a package is missing: {one_line(error)} Install it, or leave the entry out."
            ) from error
        raise


EVALUATIONS = 0.25
"""Share of a run between two evaluations, if the plan gives none."""


def training_arguments(settings: TrainSettings, figures: Sequence[str]) -> TrainingArguments:
    """Return the arguments of the Trainer.

    Args:
        settings: of the run.
        figures: names of the figures of the held-out samples; the first is what a run is judged by.

    Raises:
        BadInput: an entry of the section `trainer` has an option of `train`, has no effect, or does not go with another one.
    """
    check_trainer_section(settings.trainer)
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
        "use_cpu": pick_device(settings.device).type == "cpu",
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
    if settings.precision == "float16" and pick_device(settings.device).type == "cpu":
        raise BadInput("--precision float16 needs a GPU. Use bfloat16 or float32.")
    best = best_model(
        settings.trainer,
        figures if settings.holdout else (),
        students=max(len(settings.students), 1),
        saves=settings.save_every is not None,
    )
    if best.get("save_steps") == BY_EVALUATION:
        best["save_steps"] = training["eval_steps"]
    try:
        with storage_errors(settings.out), package_errors():
            arguments = TrainingArguments(**training | settings.trainer | best)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the training options do not go together: {one_line(error)}") from error
    if len(settings.students) > 1 and arguments.world_size > 1:
        raise BadInput("several --student in several processes: train each in a run of its own, or all in one process.")
    if settings.learning_rate_batch is not None:
        samples = settings.batch_size * settings.views_per_step * settings.accumulate * arguments.world_size
        arguments.learning_rate = settings.learning_rate * samples / settings.learning_rate_batch
    return arguments
