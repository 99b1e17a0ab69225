"""The table of tasks: what plugs in for one kind of input, by name.

A task has four facets, one for each side that must know what a sample is. Every facet is named here as text, so that the
layers below never import a task: `store` resolves the samples on disk, `dump` what a teacher is shown, `train` what a student
is shown, and `report` what a person is shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
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
        takes_sources: whether a dump may read several sources of data, each with options.
        learns_lists_alone: whether students of rows that list some tokens learn more from these alone, at temperature 1, than
            with a tail that is the same for all rows; a matter of measurement (docs/benchmarks.md).
        at_places: whether a sample has one row, and features of its models have a vector for each of its places: tokens, or
            patches. `final` is then what the output layer takes.
        figures: names of figures of its students besides those of every student, by which the best one may be known.
        keeps: the feature of the teacher that its caches keep in place of a distribution, such as "final". Then their rows are
            those of the preset scores, and `figures` are all there are, the one that a run is judged by first.
        pulls: the objective on that feature that students have where none is named.
    """

    samples: str
    stored: str
    dumping: str
    training: str
    shown: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    models: tuple[str, str]
    takes_sources: bool = False
    learns_lists_alone: bool = False
    at_places: bool = False
    figures: tuple[str, ...] = ()
    keeps: str | None = None
    pulls: str | None = None


_SERVED = ("engine", "tokenizer", "concurrency", "engine_arg")
"""Options for teachers of texts that an engine serves."""

_PLACED = ("device_map", "max_memory", "attention")
"""Options for models that transformers loads."""

TASKS: dict[str, Task] = {
    "causal-lm": Task(
        samples="texts",
        stored="logitstore.text.stored:TextSamples",
        dumping="logitstore.text.dump:TextDump",
        training="logitstore.text.train:TextTraining",
        shown="logitstore.text.show:TextShown",
        options={
            "dump": (
                "max_length",
                "overlap",
                "batch_tokens",
                "packed",
                "domain_column",
                "score_columns",
                "group_column",
                "qkv",
                "chat_template",
                "template_arg",
                "end_token",
                "positions",
                "prepared",
                "prepare_workers",
                "keep_tokens",
                *_SERVED,
                "price",
                *_PLACED,
                "tensor_parallel",
                "quantization",
            ),
            "train": (
                "text",
                "score",
                "pairs",
                "packed",
                "select",
                "window_parts",
                "curriculum",
                "curriculum_start",
                "reweight_domains",
                "reweight_kind",
                "contexts",
                "prune",
                "hidden_size",
                "intermediate_size",
                "heads",
                "kv_heads",
            ),
            "evaluate": ("text", "contexts", "figures"),
            "inspect": ("tokens",),
            "verify": (*_SERVED, *_PLACED, "tensor_parallel"),
        },
        models=("a causal language model", "transformers:AutoModelForCausalLM"),
        takes_sources=True,
        learns_lists_alone=True,
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
                "qkv",
                "label_column",
                "key_column",
                "labels",
                "skip_damaged",
                "classes",
                "prompt",
                "batch_images",
                "workers",
                *_PLACED,
                "quantization",
            ),
            "train": ("images", "image_size", "views", "views_per_step", "mix", "select", "window_parts"),
            "evaluate": ("images", "image_size", "figures"),
            "verify": ("images", *_PLACED),
        },
        models=("an image classifier", "transformers:AutoModelForImageClassification"),
        at_places=True,
    ),
    "text-classification": Task(
        samples="classified texts",
        stored="logitstore.classification.stored:ClassifiedTexts",
        dumping="logitstore.classification.dump:ClassifiedDump",
        training="logitstore.classification.train:ClassifiedTraining",
        shown="logitstore.classification.show:ClassifiedShown",
        options={
            "dump": (
                "max_length",
                "batch_tokens",
                "qkv",
                "label_column",
                "labels",
                "pair_column",
                "texts",
                *_PLACED,
                "quantization",
            ),
            "train": ("select", "window_parts", "hidden_size", "intermediate_size", "heads"),
            "evaluate": ("figures",),
            "inspect": ("tokens",),
            "verify": _PLACED,
        },
        models=("a text classifier", "transformers:AutoModelForSequenceClassification"),
        at_places=True,
        figures=("macro_f1", "matthews", "probability_loyalty"),
    ),
    "masked-lm": Task(
        samples="masked texts",
        stored="logitstore.masked.stored:MaskedSamples",
        dumping="logitstore.masked.dump:MaskedDump",
        training="logitstore.masked.train:MaskedTraining",
        shown="logitstore.masked.show:MaskedShown",
        options={
            "dump": (
                "max_length",
                "batch_tokens",
                "views",
                "seed",
                "mask_share",
                "mask_random",
                "mask_unchanged",
                *_PLACED,
                "quantization",
            ),
            "train": ("select", "views", "window_parts", "hidden_size", "intermediate_size", "heads"),
            "inspect": ("tokens",),
            "verify": _PLACED,
        },
        models=("a masked language model", "transformers:AutoModelForMaskedLM"),
    ),
    "embedding": Task(
        samples="texts with vectors",
        stored="logitstore.embedding.stored:EmbeddedTexts",
        dumping="logitstore.embedding.dump:EmbeddedDump",
        training="logitstore.embedding.train:EmbeddedTraining",
        shown="logitstore.embedding.show:EmbeddedShown",
        options={
            "dump": (
                "max_length",
                "batch_tokens",
                "pair_column",
                "score_columns",
                "texts",
                "pooling",
                "normalise",
                *_PLACED,
                "quantization",
            ),
            "train": ("select", "window_parts", "hidden_size", "intermediate_size", "heads"),
            "inspect": ("tokens",),
            "verify": _PLACED,
        },
        models=("an encoder of texts", "logitstore.models.pooling.encoder:PooledEncoder"),
        figures=("cosine", "similarity_spearman", "neighbour_agreement", "gold_spearman"),
        keeps="final",
        pulls="embedding_cosine",
    ),
    "ranking": Task(
        samples="queries with documents",
        stored="logitstore.ranking.stored:RankedQueries",
        dumping="logitstore.ranking.dump:RankedDump",
        training="logitstore.ranking.train:RankedTraining",
        shown="logitstore.ranking.show:RankedShown",
        options={
            "dump": (
                "max_length",
                "batch_tokens",
                "label_column",
                "labels",
                "pair_column",
                "texts",
                *_PLACED,
                "quantization",
            ),
            "train": ("select", "window_parts", "hidden_size", "intermediate_size", "heads", "pooling"),
            "inspect": ("tokens",),
            "verify": _PLACED,
        },
        models=("a cross-encoder or an encoder", "logitstore.ranking.models:AutoRanker"),
        figures=(
            "ndcg",
            "mrr",
            "teacher_ndcg",
            "teacher_mrr",
            "ndcg_to_teacher",
            "mrr_to_teacher",
            "spearman",
            "kendall",
        ),
    ),
}
"""The tasks of this package; those of other packages stand under the entry point `logitstore.tasks`."""


@cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the tasks of installed packages, not yet imported. Raises BadInput when two tasks have one name."""
    entries: dict[str, EntryPoint] = {}
    for entry in entry_points(group=PLUGINS):
        if entry.name in TASKS or entry.name in entries:
            raise BadInput(f"the task '{entry.name}' of {entry.value}: the name is taken. Rename the plugin's.")
        entries[entry.name] = entry
    return entries


def is_task(name: str) -> bool:
    """Return True where a task has this name: one of ours, or of an installed package."""
    return name in TASKS or name in _plugins()


@cache
def task_of(name: str) -> Task:
    """Return the task with this name; a package that provides one is imported when it is asked for.

    Raises:
        BadInput: there is none, with the nearest name; or what a package provides is no `Task`.
    """
    if name in TASKS:
        return TASKS[name]
    if name not in _plugins():
        raise BadInput(f"no task named '{name}'. {suggest(name, [*TASKS, *_plugins()])}")
    entry = _plugins()[name]
    task = entry.load()
    if not isinstance(task, Task):
        raise BadInput(f"the task '{name}' of {entry.value} is no {__name__}.Task. Repair the plugin.")
    known = {(command, each) for own in TASKS.values() for command, names in own.options.items() for each in names}
    for command, each in ((command, each) for command, names in task.options.items() for each in names):
        if (command, each) not in known:
            raise BadInput(
                f"the task '{name}' of {entry.value} names the option '{each}' of `{command}`, which no task has. Repair it."
            )
    return task


def check_task(name: str) -> str:
    """Return the name of a task. Raises ValueError when there is none, with the nearest name."""
    if not is_task(name):
        raise ValueError(suggest(name, [*TASKS, *_plugins()]))
    return name


@cache
def facet(name: str, side: str) -> Any:
    """Return one facet of a task: "stored", "dumping", "training" or "shown"; imported when first asked for."""
    return resolve(getattr(task_of(name), side))()
