"""The table of tasks: what plugs in for one kind of input, by name.

A task has four facets, one for each side that must know what a sample is. Every facet is named here as text, so that the
layers below never import a task: `store` resolves the samples on disk, `dump` what a teacher is shown, `train` what a student
is shown, and `report` what a person is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from logitstore.core.registry import resolve, suggest
from logitstore.errors import BadInput

PLUGINS = "logitstore.tasks"
"""The entry-point group in which other packages name tasks of theirs."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of input. Every string names an object as `package.module:attribute`.

    Attributes:
        samples: what the samples of its caches are called in messages, such as "texts".
        stored: the samples on disk, a `logitstore.store.samples.StoredSamples`.
        dumping: what a teacher is shown, a `logitstore.dump.task.DumpTask`.
        training: what a student is shown, a `logitstore.train.task.TrainTask`.
        shown: what a person is shown, a `logitstore.report.shown.Shown`.
        options: names of settings, by command, that have a meaning for this task and not for every task. Commands refuse them
            where a task does not name them.
        models: what its students are called in messages, and the class of transformers that loads them.
    """

    samples: str
    stored: str
    dumping: str
    training: str
    shown: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    models: tuple[str, str]


TASKS: dict[str, Task] = {
    "causal-lm": Task(
        samples="texts",
        stored="logitstore.text.stored:TextSamples",
        dumping="logitstore.text.dump:TextDump",
        training="logitstore.text.train:TextTraining",
        shown="logitstore.text.show:TextShown",
        options={
            "dump": ("max_length", "overlap", "batch_tokens", "domain_column", "qkv"),
            "train": (
                "text",
                "packed",
                "select",
                "curriculum",
                "curriculum_start",
                "reweight_domains",
                "prune",
                "hidden_size",
                "intermediate_size",
                "heads",
                "kv_heads",
            ),
            "evaluate": ("text",),
        },
        models=("a causal language model", "transformers:AutoModelForCausalLM"),
    ),
    "image-classification": Task(
        samples="images",
        stored="logitstore.image.stored:ViewSamples",
        dumping="logitstore.image.dump:ImageDump",
        training="logitstore.image.train:ImageTraining",
        shown="logitstore.image.show:ImageShown",
        options={
            "dump": (
                "views",
                "augment",
                "image_size",
                "seed",
                "label_column",
                "key_column",
                "labels",
                "classes",
                "prompt",
                "batch_images",
                "workers",
            ),
            "train": ("images", "image_size", "views", "views_per_step"),
            "evaluate": ("images", "image_size"),
        },
        models=("an image classifier", "transformers:AutoModelForImageClassification"),
    ),
}
"""The tasks of this package; those of other packages stand under the entry point `logitstore.tasks`."""


@cache
def tasks() -> Mapping[str, Task]:
    """Return all tasks by name: ours, and those of installed plugins.

    Raises:
        BadInput: a plugin gives something else than a `Task`, or takes a name that is taken.
    """
    known = dict(TASKS)
    for entry in entry_points(group=PLUGINS):
        task = entry.load()
        if not isinstance(task, Task):
            raise BadInput(f"the task '{entry.name}' of {entry.value} is no Task of {__name__}. Repair the plugin.")
        if entry.name in known:
            raise BadInput(f"the task '{entry.name}' of {entry.value}: the name is taken. Give the plugin another one.")
        known[entry.name] = task
    return known


def task_of(name: str) -> Task:
    """Return the task of that name.

    Raises:
        BadInput: no task has the name.
    """
    if not is_task(name):
        raise BadInput(
            f"no task named '{name}'. {suggest(name, list(tasks()))} A task of another package must be installed."
        )
    return TASKS.get(name) or tasks()[name]


def is_task(name: str) -> bool:
    """Say whether there is a task of that name. Plugins are looked for only where it is none of ours."""
    return name in TASKS or name in tasks()


@cache
def facet(name: str, side: str) -> Any:
    """Return one facet of a task: "stored", "dumping", "training" or "shown"; imported when first asked for."""
    return resolve(getattr(task_of(name), side))()
