"""`train`: fit a student from a cache; no teacher runs. Reads top to bottom.

cache -> check that the student fits -> split -> loaders -> student -> Trainer -> saved student
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, TrainingArguments

from logitstore.core.progress import Progress, amount, no_progress
from logitstore.core.tasks import task_of
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, storage_errors
from logitstore.models.adapter import has_adapter, merge
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.checks.also import also_notes, also_of
from logitstore.train.checks.beside import bilevel_of, mixing_of, own_answers_of
from logitstore.train.checks.run import check_opened, checked_students, has_cross_entropy, layers_of, selection_for
from logitstore.train.learner import Learner
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loop.arguments import training_arguments
from logitstore.train.loop.batches import schedule_of
from logitstore.train.loop.best import EarlyStopping
from logitstore.train.loop.callbacks import DivergenceWarning, Report
from logitstore.train.loop.checkpoints import check_schedule, whole_student
from logitstore.train.loop.ending import clear, last_evaluation, run, saved_step
from logitstore.train.loop.packages import package_errors
from logitstore.train.metrics import Evaluation
from logitstore.train.run_folder import (
    checkpoint_of,
    conditions,
    refuse_other_features,
    with_objective,
    with_precision,
    write_summary,
)
from logitstore.train.sidecars import gathered
from logitstore.train.students.adapt import check_reached, counts_of, trained_note
from logitstore.train.students.build import made_student
from logitstore.train.students.hooks.run import HookCallback, prepared_hooks
from logitstore.train.students.recovered import recovered_from, start_head
from logitstore.train.task import Place, train_task
from logitstore.train.terms import fidelity_notes, learner_of, taps_read
from logitstore.train.trainer import DistillTrainer


def no_notice(text: str) -> None:
    """Discard a notice."""


def train(
    settings: TrainSettings,
    progress: Progress = no_progress,
    notice: Callable[[str], None] = no_notice,
    given: ModelRef | None = None,
) -> dict[str, float]:
    """Train and save the student that `settings` describes.

    Args:
        settings: the plan of the training.
        progress: receives the steps.
        notice: receives what the user should know before training begins, such as how far the cache is from its teacher.
        given: the student itself, where a caller has it.

    Returns:
        the last figures logged, including those of the held-out samples.

    Raises:
        NotACache, CacheDamaged: the cache cannot be read.
        ModelError, CacheMismatch: the student cannot be made or loaded, or does not fit the cache.
        BadInput: options do not go together.
        StorageError: --out cannot be written.
    """
    cache = Cache(settings.cache)
    cache.check_soon()
    settings = with_objective(with_precision(settings), cache)
    task = train_task(cache)
    students, also = checked_students(settings, cache, given), also_of(settings, cache)
    selection = selection_for(settings, cache)
    arguments = training_arguments(settings, _figures(settings, cache))
    checksum = None if selection is None else selection.checksum
    checkpoint = checkpoint_of(settings, arguments.world_size, cache, checksum, also)
    layers = {layers_of(settings, cache, student) for student in students.values()}
    taps = _taps_read(settings, cache, layers, arguments)
    if checkpoint is not None:
        refuse_other_features(settings, taps)
    place = Place(rank=arguments.process_index, world_size=arguments.world_size, workers=settings.workers)
    first = next(iter(students.values()))
    data = task.open(settings, cache, first, selection, taps, place, progress)
    check_opened(settings, cache, selection, data)
    data.train.read_also(also, [taps_read(settings, each, layers, place) for place, each in enumerate(also, 2)])
    bilevel, mixing = bilevel_of(settings, data, arguments), mixing_of(settings)
    own = own_answers_of(settings, cache, data, arguments, checkpoint)
    if checkpoint is not None:
        check_schedule(Path(checkpoint), schedule_of(arguments, data.train))
    begin = save = None
    if data.companion is not None:
        begin = partial(data.companion.begin, device=arguments.device, checkpoint=checkpoint)
        save = data.companion.save
    hook_notes: list[str] = []
    savers = {name: task.saver(settings, cache, student) for name, student in students.items()}
    made = {
        name: _learner(settings, cache, also, name, student, data.train, progress, begin, hook_notes)
        for name, student in students.items()
    }

    for learner, _ in made.values():
        learner.bilevel, learner.own, learner.mixing = bilevel, own, mixing

    def keep_conditions(folder: Path) -> None:
        write_summary(folder, summary | {"batches_given": trainer.schedule.given(trainer.state.global_step)})

    stopping = None if settings.early_stopping is None else EarlyStopping(settings.early_stopping, notice)
    with package_errors():
        trainer = DistillTrainer(
            learners=[learner for learner, _ in made.values()],
            args=arguments,
            train_loader=data.train,
            held_out_loader=data.held_out,
            judge=data.judge,
            has_unlabelled=data.unlabelled > 0,
            also_save=[keep_conditions, *filter(None, [save, None if own is None else own.save])],
            callbacks=[
                Report(progress),
                DivergenceWarning(list(students), notice),
                HookCallback([(learner.student, learner.hooks) for learner, _ in made.values()]),
                *filter(None, [data.companion, stopping]),
            ],
        )
    notice(f"note: forward and backward pass in {settings.precision}, on {arguments.device.type}.")
    if not cache.complete:
        notice(
            f"note: {settings.cache} has {len(cache.part_numbers):,} of its {amount(cache.manifest.parts, 'part')} so far; "
            "the student learns from these alone."
        )
    notes = [*fidelity_notes(settings, cache, layers), *also_notes(settings, also), *_student_notes(made, trainer)]
    notes += [*data.notes, *hook_notes]
    _refuse_pieces(settings, trainer)
    if data.unlabelled and has_cross_entropy(settings):
        have = "has" if data.unlabelled == 1 else "have"
        notes.append(
            f"note: {data.unlabelled:,} of the samples to train on {have} no label; "
            "cross-entropy is the mean over the others."
        )
    if settings.learning_rate_batch is not None:
        notes.append(
            f"note: the learning rate is {arguments.learning_rate:.3g}: {settings.learning_rate:g} is for steps of "
            f"{settings.learning_rate_batch} samples, and those of this run have "
            f"{round(arguments.learning_rate / settings.learning_rate * settings.learning_rate_batch)}."
        )
    for text in notes:
        notice(text)
    summary = _summary(settings, cache, selection, made, trainer) | dict(data.facts)
    if taps:
        summary["features"] = taps
    if also:
        summary["also"] = [each.manifest.identity for each in also]
    with storage_errors(settings.out, then="run the same command again, with --resume where a checkpoint was saved"):
        if trainer.is_world_process_zero():
            write_summary(settings.out, summary)
        run(trainer, settings.out, checkpoint, stopping)
        if stopping is not None and stopping.stopped:
            summary["stopped_early"] = settings.early_stopping
        for learner in trainer.learners:
            for hook in learner.hooks:
                hook.check(learner.student)
        steps = float(trainer.state.global_step)
        figures = {"train_loss": trainer.mean_loss, "steps": steps} | last_evaluation(trainer)
        # what goes to the hub is read from --out while it is saved
        hub = trainer.args.push_to_hub
        saving = nullcontext(settings.out) if hub else whole_student(settings.out, trainer.is_world_process_zero())
        for student in [each.student for each in trainer.learners] if settings.lora_merge else []:
            merge(student)
        with saving as folder:
            trainer.save_model(str(folder))
            if trainer.is_world_process_zero():
                for name, save_beside in savers.items():
                    save_beside(folder / name)
        if trainer.is_world_process_zero():
            write_summary(settings.out, summary | {"figures": figures, "log": trainer.state.log_history})
            if (best := saved_step(trainer)) != trainer.state.global_step:
                notice(f"note: the student that is saved is the best one, that of step {best}.")
            clear(settings, trainer.state.best_model_checkpoint, notice)
    return figures


def leave() -> None:
    """Destroy the process group that torchrun's processes share, if there is one. A process that ends in it may abort."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


Made = dict[str, tuple[Learner, str]]
"""The students by name, each with the reason why its loss is taken from its logits, where it is."""


def _taps_read(
    settings: TrainSettings, cache: Cache, layers: Collection[int], arguments: TrainingArguments
) -> list[str]:
    """Return the names of the teacher's features that the run reads.

    Raises:
        BadInput: the cache lacks one, `--strict` asks for more than it gives, or GPUs in one process would share them.
    """
    taps = taps_read(settings, cache, layers)
    if taps and arguments.n_gpu > 1:
        raise BadInput(
            f"pulls on features with {arguments.n_gpu} GPUs in one process: their features cannot be had together. Start one "
            f"process for each with torchrun --nproc-per-node {arguments.n_gpu}, or give one GPU with CUDA_VISIBLE_DEVICES."
        )
    return taps


def _learner(
    settings: TrainSettings,
    cache: Cache,
    also: Sequence[Cache],
    name: str,
    reference: ModelRef | None,
    loader: BatchStream,
    progress: Progress,
    begin: Callable[[PreTrainedModel], None] | None,
    notes: list[str],
) -> tuple[Learner, str]:
    """Make a student ready to be trained; say why its loss is taken from its logits, where it is.

    `begin` gets the student before the loader is asked for a batch; `notes` gets lines about its hooks.
    """
    task = train_task(cache)
    transformers.set_seed(settings.seed)
    student = made_student(settings, cache, reference, loader, progress)
    if settings.recover_head is not None:
        found = recovered_from(cache, loader, progress)
        who = str(reference or "the fresh student")
        notes.append(start_head(student, found, frozen=settings.recover_head == "frozen", who=who))
    hooks, lines = prepared_hooks(settings, student, str(reference or "the fresh student"))
    notes += lines
    task.check_made(settings, student, str(reference or "the fresh student"), loader)
    if begin is not None:
        begin(student)
    head, why_not = task.loss_head(student, loader)
    learner = learner_of(
        settings,
        cache,
        student,
        gathered(cache, progress),
        also,
        head=head,
        name=name,
        hooks=hooks,
        autocast=torch.bfloat16 if settings.precision == "bfloat16" else None,
    )
    check_reached(student, learner.features, loader, str(reference or "the fresh student"))
    return learner, why_not


def _student_notes(made: Made, trainer: DistillTrainer) -> list[str]:
    """Say for each student whether its loss includes its output layer, and if not, why; and which weights are trained."""
    notes = []
    for learner, why_not in made.values():
        notes += trained_note(learner.student, learner.name)
        whose = f"{learner.name}: " if learner.name else ""
        if learner.head is not None and trainer.head_is_whole:
            notes.append(f"note: {whose}the loss includes the student's output layer, so its logits never exist whole.")
        else:
            notes.append(f"note: {whose}the loss is taken from the student's logits ({why_not}).")
    return notes


def _refuse_pieces(settings: TrainSettings, trainer: DistillTrainer) -> None:
    """Refuse adapters and hooks of students whose weights are in pieces. Raises BadInput."""
    if trainer.weights_are_whole:
        return
    hooked = any(each.hooks for each in trainer.learners)
    if not hooked and not any(has_adapter(each.student) for each in trainer.learners):
        return
    what = f"--hook {settings.hooks[0]}" if settings.hooks else "--keep-zeros" if hooked else "adapters"
    raise BadInput(
        f"{what}: under {trainer.accelerator.distributed_type} the weights are in pieces. Train without "
        f"{'it, or with --no-keep-zeros' if what == '--keep-zeros' else 'it'}."
    )


def _summary(
    settings: TrainSettings, cache: Cache, selection: Selection | None, made: Made, trainer: DistillTrainer
) -> dict[str, Any]:
    """Return what made the student, as it is kept beside it."""
    by_hidden = trainer.head_is_whole and all(learner.head is not None for learner, _ in made.values())
    return {
        "cache": cache.manifest.identity,
        "samples": len(cache),
        "selection": None if selection is None else selection.checksum,
        "teacher": cache.manifest.teacher.name,
        "loss_from": "hidden states" if by_hidden else "logits",
        "students": {name or "student": counts_of(learner.student) for name, (learner, _) in made.items()},
        **conditions(settings, trainer.args.world_size),
    }


def _figures(settings: TrainSettings, cache: Cache) -> list[str]:
    """Return the names of the figures of the held-out samples; the first is what a run is judged by."""
    task = task_of(cache.manifest.task)
    if task.keeps is not None:
        return list(task.figures)
    if settings.text or not cache.manifest.sparsifier.keeps_rows:
        return ["cross_entropy", "perplexity", "nats_per_byte"]
    names = ["kl", *(each.name for each in fields(Evaluation) if each.name not in ("kl", "rows"))]
    return [*names, *task.figures]
