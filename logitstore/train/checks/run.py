"""What `train` refuses before any weights are loaded."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from logitstore.core.methods import method_of
from logitstore.core.schedule import Schedule
from logitstore.core.tasks import task_of
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.adapter_ref import student_ref
from logitstore.models.load import config_from, load_config
from logitstore.models.shape import layer_count
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.settings.train import TrainSettings
from logitstore.settings.trust import refuse_unnamed
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection, read_selection
from logitstore.store.storage import open_storage
from logitstore.train.loop.best import BY_FIGURE
from logitstore.train.loop.names import ONE_STUDENT
from logitstore.train.run_folder import refuse_other_facts
from logitstore.train.students.adapt import check_adapters
from logitstore.train.students.build import parse_layers, shape_changes
from logitstore.train.students.hooks.run import check_hooks
from logitstore.train.students.recovered import check_recovered
from logitstore.train.task import RunData, train_task
from logitstore.train.terms import check_terms


def selection_for(settings: TrainSettings, cache: Cache) -> Selection | None:
    """Return the selection that is asked for, which fits the cache; None without one.

    Raises:
        BadInput: it cannot be read.
        CacheMismatch: it was made for other samples.
    """
    if settings.select is None:
        return None
    selection = read_selection(settings.select)
    selection.check(cache, settings.select)
    if settings.text and selection.weight_M is not None:
        raise BadInput(
            f"--text with --select {settings.select}: its samples have weights, and text that is cut anew has none. "
            "Select by another method."
        )
    return selection


def check_opened(settings: TrainSettings, cache: Cache, selection: Selection | None, data: RunData) -> None:
    """Refuse what a task opened, where a run that goes on read something else, or where more is read than is selected.

    Raises:
        BadInput: a task of another package names `select` among its options and does not follow it.
        CacheMismatch: the run read other facts before.
    """
    refuse_other_facts(settings, data.facts)
    chosen = None if selection is None else len(selection.samples_M) * cache.manifest.views
    if chosen is not None and not settings.text and data.train.count > chosen:
        raise BadInput(
            f"--select {settings.select}: the task {cache.manifest.task} reads {data.train.count:,} samples, and {chosen:,} "
            "are chosen. Repair the task: it names the option `select`, so its `open` has to read these alone."
        )


def has_cross_entropy(settings: TrainSettings) -> bool:
    """Return whether cross-entropy on gold tokens or labels is a part of the loss."""
    return Schedule.of(settings.alpha).span[0] < 1 and settings.objective != "none"


def refuse_unjudged(settings: TrainSettings, cache: Cache) -> None:
    """Refuse held-out samples that are judged by a teacher's answers where the cache keeps none. Raises BadInput."""
    if settings.holdout and not cache.manifest.sparsifier.keeps_rows:
        raise BadInput(
            f"--holdout {settings.holdout:g}: {cache.path} keeps scores only (preset 'scores'), and held-out "
            f"{task_of(cache.manifest.task).samples} are compared with the teacher's answers. Give --holdout 0."
        )


def needing_labels(settings: TrainSettings) -> list[str]:
    """Return the names of the objectives that need a gold token or a label of every row."""
    names = {settings.objective, *(term.name for term in settings.terms)} - {"none"}
    return sorted(name for name in names if method_of(name).needs_gold)


def checked_students(
    settings: TrainSettings, cache: Cache, given: ModelRef | None = None
) -> dict[str, ModelRef | None]:
    """Refuse what cannot work before any weights are loaded; return the students by name, None for a fresh one.

    A single student has no name: it is saved in --out itself.

    Args:
        settings: the plan of the training.
        cache: the cache to train from.
        given: the student itself, where a caller has it.

    Raises:
        BadInput, CacheMismatch, ModelError: naming what cannot work.
    """
    task = cache.manifest.task
    refuse_unnamed(settings, "student")
    refuse_other_tasks(settings, "train", task, f"{settings.cache}, a cache of {task_of(task).samples}")
    names = _names(settings)
    _check_out(settings, names)
    alone = [name for name in ONE_STUDENT if settings.trainer.get(name)]
    if len(names) > 1 and (settings.precision == "float16" or alone):
        what = "--precision float16" if settings.precision == "float16" else alone[0]
        raise BadInput(f"several --student with {what}: that is for one student only. Train each in a run of its own.")
    check_terms(settings, cache)
    _check_shape(settings)
    _check_course(settings)
    if given is not None:
        students = [given]
    else:
        students = [student_ref(each, trust_remote_code=settings.trust_remote_code) for each in settings.students]
    check_adapters(settings, students)
    check_hooks(settings)
    if settings.recover_head is not None:
        _check_recovered(settings, cache, students)
    train_task(cache).check(settings, cache, students)
    return dict(zip(names, students, strict=True)) if students else {"": None}


def _check_recovered(settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
    """Refuse an output layer of the teacher's answers where there are none of every token, or where an adapter is trained."""
    if settings.lora is not None or any(each.adapter is not None for each in students):
        raise BadInput("--recover-head: an adapter trains no output layer of its own. Train without one of them.")
    if settings.text:
        raise BadInput("--recover-head with --text: the student has tokens of its own. Leave one out.")
    check_recovered(cache)


def _check_shape(settings: TrainSettings) -> None:
    """Refuse options about the student's shape that do not go together."""
    if settings.prune_samples is not None and not settings.prune:
        raise BadInput(f"--prune-samples {settings.prune_samples}: it changes nothing without --prune.")
    changes = shape_changes(settings)
    if not settings.students:
        if settings.copy_layers is not None:
            raise BadInput("--copy-layers needs a --student to copy them from.")
        if settings.prune:
            raise BadInput("--prune needs a --student to prune.")
        return
    if settings.prune and settings.packed:
        raise BadInput(
            "--prune with --packed: it looks at samples one by one. Prune in a run of one step, and train on that."
        )
    if settings.prune and not changes.keys() - {"num_hidden_layers"}:
        raise BadInput("--prune needs --hidden-size, --intermediate-size, --heads or --kv-heads to prune to.")
    if changes and (not settings.prune or settings.layers is not None):
        raise BadInput(
            f"--student {settings.students[0]} has its shape already; --layers, --hidden-size and the like are for a fresh "
            "one. Add --prune to make it narrower, or --copy-layers to take some of its layers."
        )


WITHOUT_WARMUP = ("constant", *BY_FIGURE)
"""Schedules in which the rate does not rise first."""


def _check_course(settings: TrainSettings) -> None:
    """Refuse options about the course of a run that would change nothing."""
    if settings.holdout == 0:
        refuse_set(settings, ("evaluate_every",), "with --holdout 0 there is nothing to evaluate on")
    if settings.scheduler in WITHOUT_WARMUP and settings.warmup:
        refuse_set(
            settings, ("warmup",), f"the schedule {settings.scheduler} has none; constant_with_warmup, for one, has it"
        )


def _check_out(settings: TrainSettings, names: list[str]) -> None:
    """Refuse a folder in which saving would overwrite something else."""
    if settings.out.exists() and not settings.out.is_dir():
        raise BadInput(f"--out {settings.out}: a file stands there. Choose another folder.")
    taken = {
        *(open_storage(each).address for each in (settings.cache, *settings.also)),
        *(str(Path(ModelRef.parse(student).name).resolve()) for student in settings.students),
    }
    for place in (settings.out, *(settings.out / name for name in names)):
        if str(place.resolve()) in taken:
            raise BadInput(f"--out {settings.out}: {place} is the cache or a student itself. Choose another folder.")


def _names(settings: TrainSettings) -> list[str]:
    """Return the names of the students in the log and below --out: those of their folders; empty for a single student."""
    if len(settings.students) < 2:
        return [""]
    names: list[str] = []
    for student in settings.students:
        name = Path(ModelRef.parse(student).name).name.replace(".", "_")
        if not name or re.fullmatch(r"checkpoint-\d+", name):
            raise BadInput(
                f"--student {student}: of several, each is saved below --out under the name of its folder, and '{name}' "
                "cannot be one there. Rename the folder, or write its path with its name."
            )
        if name in names:
            raise BadInput(f"--student {student}: there is another one called '{name}'. Rename one of the folders.")
        names.append(name)
    return names


def layers_of(settings: TrainSettings, cache: Cache, reference: ModelRef | None) -> int:
    """Decoder layers of a student to be, or 0; see `layer_count`."""
    if reference is None:
        return settings.layers or layer_count(config_from(cache.manifest.teacher.config))
    count = layer_count(load_config(reference))
    return len(parse_layers(settings.copy_layers, count)) if settings.copy_layers is not None else count
