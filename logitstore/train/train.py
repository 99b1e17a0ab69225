"""`train`: fit a student from a cache; no teacher runs. Reads top to bottom.

cache -> check that the student fits -> split -> loaders -> student -> Trainer -> saved student
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from logitstore.core.progress import Progress, no_progress
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, one_line, storage_errors
from logitstore.image.train import PROCESSOR, check_takes, processor_for
from logitstore.models.load import pick_device
from logitstore.models.shape import layer_count, shape_of
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.text.train import check_packing, loaders, selection_for, tokenizer_for
from logitstore.train.callbacks import DivergenceWarning, Report
from logitstore.train.check import _check, _check_length, _layers
from logitstore.train.learner import Learner
from logitstore.train.loader.stream import BatchStream
from logitstore.train.run_folder import checkpoint_of, conditions, write_summary
from logitstore.train.sidecars import sidecar
from logitstore.train.students.build import _head, _student
from logitstore.train.terms import check_exact, compared, criterion_of, fidelity_notes
from logitstore.train.trainer import DistillTrainer

EVALUATIONS = 0.25
"""Share of a run between two evaluations, if the plan gives none."""


def no_notice(text: str) -> None:
    """Discard a notice."""


def train(
    settings: TrainSettings, progress: Progress = no_progress, notice: Callable[[str], None] = no_notice
) -> dict[str, float]:
    """Train and save the student that `settings` describes.

    Args:
        settings: the plan of the training.
        progress: receives the steps.
        notice: receives what the user should know before training begins, such as how far the cache is from its teacher.

    Returns:
        the last figures logged, including those of the held-out samples.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be made or loaded, or does not fit the cache.
        BadInput: options do not go together.
        StorageError: --out cannot be written.
    """
    cache = Cache(settings.cache)
    cache.check_sizes()
    references = _check(settings, cache)
    selection = selection_for(settings, cache)
    arguments = _arguments(settings)
    if len(references) > 1 and arguments.world_size > 1:
        raise BadInput("several --student in several processes: train each in a run of its own, or all in one process.")
    chosen = None if selection is None else selection.checksum
    checkpoint = checkpoint_of(settings, arguments.world_size, cache, chosen)
    place = {"rank": arguments.process_index, "world_size": arguments.world_size, "workers": settings.workers}
    layers = {_layers(settings, cache, each) for each in references.values()}
    taps = sorted({other for count in layers for _, other in compared(settings, cache, count)})
    cache.taps.check_has(taps)
    check_exact(settings, cache, layers)
    if taps and arguments.n_gpu > 1:
        raise BadInput(
            f"pulls on features with {arguments.n_gpu} GPUs in one process: their features cannot be had together. Start one "
            f"process for each with torchrun --nproc-per-node {arguments.n_gpu}, or give one GPU with CUDA_VISIBLE_DEVICES."
        )
    first = next(iter(references.values()))
    train_loader, held_out_loader, reweighting = loaders(settings, cache, first, selection, taps, place, progress)
    begin = reweighting and partial(reweighting.begin, device=arguments.device, checkpoint=checkpoint)
    processors: dict[str, bytes] = {}
    if cache.manifest.view is not None:
        processors = {name: processor_for(cache, each, settings.image_size) for name, each in references.items()}
    learners, reasons = [], []
    for name, reference in references.items():
        learner, why_not = _learner(settings, cache, name, reference, train_loader, progress, begin)
        learners.append(learner)
        reasons.append(why_not)
    trainer = DistillTrainer(
        learners=learners,
        args=arguments,
        train_loader=train_loader,
        held_out_loader=held_out_loader,
        also_save=reweighting.save if reweighting else None,
        callbacks=[
            Report(progress),
            DivergenceWarning(list(references), notice),
            *([reweighting] if reweighting else []),
        ],
    )
    by_hidden = trainer.head_is_whole and all(learner.head is not None for learner in learners)
    summary = {
        "cache": cache.manifest.identity,
        "samples": len(cache),
        "selection": chosen,
        "teacher": cache.manifest.teacher.name,
        "loss_from": "hidden states" if by_hidden else "logits",
        **conditions(settings, arguments.world_size),
    }
    for text in fidelity_notes(settings, cache, layers):
        notice(text)
    for learner, why_not in zip(learners, reasons, strict=True):
        whose = f"{learner.name}: " if learner.name else ""
        if learner.head is not None and trainer.head_is_whole:
            notice(f"note: {whose}the loss includes the student's output layer, so its logits never exist whole.")
        else:
            notice(f"note: {whose}the loss is taken from the student's logits ({why_not}).")
    with storage_errors(settings.out, then="run the same command with --resume"):
        if trainer.is_world_process_zero():
            write_summary(settings.out, summary)
        trainer.train(resume_from_checkpoint=checkpoint)
        steps = float(trainer.state.global_step)
        figures = {"train_loss": trainer.mean_loss, "steps": steps} | _last_evaluation(trainer)
        trainer.save_model(str(settings.out))
        if trainer.is_world_process_zero():
            for name, reference in references.items():
                if cache.manifest.view is not None:
                    (settings.out / name / PROCESSOR).write_bytes(processors[name])
                else:
                    tokenizer_for(cache, reference).save_pretrained(str(settings.out / name))
            write_summary(settings.out, summary | {"figures": figures, "log": trainer.state.log_history})
    return figures


def _learner(
    settings: TrainSettings,
    cache: Cache,
    name: str,
    reference: ModelRef | None,
    loader: BatchStream,
    progress: Progress,
    begin: Callable[[PreTrainedModel], None] | None,
) -> tuple[Learner, str]:
    """Return a student ready to be trained, and the reason why its loss is taken from its logits, where it is.

    `begin` gets the student before the loader is asked for a batch.
    """
    transformers.set_seed(settings.seed)
    student = _student(settings, cache, reference, loader, progress)
    _check_length(student, loader)
    # no text is read yet, because `begin` may decide its order
    pixels_B3HW = loader.at(0, 0).pixel_values if cache.manifest.view is not None else None
    if pixels_B3HW is not None:
        check_takes(student, str(reference or "the fresh student"), pixels_B3HW)
    if begin is not None:
        begin(student)
    if settings.packed:
        check_packing(student, str(reference or "the fresh student"))
    head, why_not = _head(student, loader)
    autocast = torch.bfloat16 if settings.precision == "bfloat16" else None
    given = {"means_VD": lambda: sidecar(cache, "means", "final", progress)["by_gold"]}
    learner = Learner(
        student=student,
        criterion=criterion_of(settings, cache, shape_of(student.config), given),
        features=sorted({name for name, _ in compared(settings, cache, layer_count(student.config))}),
        head=head,
        name=name,
        autocast=autocast,
    )
    return learner, why_not


def _last_evaluation(trainer: DistillTrainer) -> dict[str, float]:
    """Return the figures after the last step; evaluate now if there are none yet."""
    for entry in trainer.state.log_history:
        figures = {name: value for name, value in entry.items() if name.rpartition("/")[2].startswith("eval_")}
        if figures and entry["step"] == trainer.state.global_step:
            return figures
    return trainer.evaluate()


def _arguments(settings: TrainSettings) -> TrainingArguments:
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
        "save_total_limit": 2,
        "logging_steps": 10,
        "logging_nan_inf_filter": False,  # the filter would ask the device for the loss at every step
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
    }
    if settings.precision == "float16" and pick_device(settings.device).type == "cpu":
        raise BadInput("--precision float16 needs a GPU. Use bfloat16 or float32.")
    fixed = training.keys() - {"save_strategy", "save_total_limit", "logging_steps", "report_to", "disable_tqdm"}
    taken = sorted(settings.trainer.keys() & (fixed | {"dataloader_num_workers"}))
    if taken:
        raise BadInput(f"trainer: '{taken[0]}' is set by an option of train. Use that.")
    try:
        with storage_errors(settings.out):
            return TrainingArguments(**training | settings.trainer)
    except (TypeError, ValueError) as error:
        raise BadInput(f"the training options do not go together: {one_line(error)}") from error
