"""The plan of a dump, worked out as far as it goes without the teacher's weights; how, depends on the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

import logitstore
from logitstore.cache.reader import Cache
from logitstore.errors import BadInput
from logitstore.manifest import Manifest, TeacherInfo
from logitstore.models import describe
from logitstore.plans import DumpPlan
from logitstore.registry import Table
from logitstore.score import Batches
from logitstore.teachers.teacher import Teacher
from logitstore.types import Array, Progress, no_progress

TASKS = Table(
    "task",
    {
        "causal-lm": "logitstore.text_draft:draft_text",
        "image-classification": "logitstore.image_draft:draft_images",
    },
)


class AskedSamples(Protocol):
    """All samples of a dump, made on demand: of images, those of one view after those of another."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any:
        """One sample, or a list of those of a slice."""

    @property
    def rows_S(self) -> Array:
        """int64: rows of every sample."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A plan worked out as far as it goes without the teacher's weights.

    Attributes:
        manifest: as it will be, but for the teacher's fingerprint and the shared files.
        samples: what the teacher will be asked about.
        config: of the teacher.
        batches: how samples become batches of the teacher.
        files: the shared files that do not come from the teacher's weights, by their paths in the cache.
        load: loads the teacher.
        known: the samples, with what a cache that is gone on with knows of them; None where that changes nothing.
    """

    manifest: Manifest
    samples: AskedSamples
    config: PretrainedConfig
    batches: Batches
    files: Callable[[], dict[str, bytes]]
    load: Callable[[], Teacher]
    known: Callable[[Cache], AskedSamples] | None = None

    def going_on_with(self, cache: Cache) -> Draft:
        """The same, whose samples must be those that a cache already has parts about."""
        return self if self.known is None else replace(self, samples=self.known(cache))

    def pilot(self, rows: int) -> list[Any]:
        """Samples spread evenly over one view of the data, with about `rows` rows between them."""
        return [self.samples[index] for index in spread(self.manifest.samples, self.manifest.rows, rows)]


def draft(plan: DumpPlan, progress: Progress = no_progress) -> Draft:
    """The plan of a dump; loads no weights.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher whose configuration cannot be loaded, or that does not belong to the task.
    """
    found: Draft = TASKS[plan.task](plan, progress)
    return found


def created_by() -> dict[str, str]:
    """The software that writes a plan, by name."""
    return {
        "logitstore": logitstore.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def teacher_info(plan: DumpPlan, config: PretrainedConfig, vocabulary: int, width: int | None) -> TeacherInfo:
    """Who will answer, but for the fingerprint of the weights."""
    architecture, plain = describe(config)
    return TeacherInfo(
        name=plan.teacher,
        revision=getattr(config, "_commit_hash", None),
        fingerprint="",
        dtype=plan.dtype,
        vocabulary=vocabulary,
        width=width,
        architecture=architecture,
        config=plain,
    )


def refuse_options(plan: DumpPlan, names: Iterable[str]) -> None:
    """Refuse options that are about another task.

    Raises:
        BadInput: naming the first that was given.
    """
    for name in names:
        if name in plan.model_fields_set and getattr(plan, name) != plan.__class__.model_fields[name].default:
            raise BadInput(f"--{name.replace('_', '-')}: it means nothing to --task {plan.task}. Leave it out.")


def spread(samples: int, all_rows: int, rows: int) -> list[int]:
    """Numbers of some of `samples` samples with `all_rows` rows, evenly, with about `rows` rows between them."""
    count = min(samples, max(int(rows / (all_rows / samples)), 1))
    return [int(index) for index in np.unique(np.linspace(0, samples - 1, count).round())]
