"""A dump that is prepared: everything that follows from its settings without the teacher's weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
import transformers
from transformers import PretrainedConfig

import logitstore
from logitstore.core.order import spread
from logitstore.core.progress import Progress, no_progress
from logitstore.core.tasks import TASKS
from logitstore.core.types import Array
from logitstore.dump.ask import Batches
from logitstore.dump.teachers.teacher import Teacher
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest, TeacherInfo
from logitstore.models.load import describe
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache


class AskedSamples(Protocol):
    """All samples of a dump, made on demand: of images, those of one view after those of another."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any) -> Any:
        """One sample, or a list of those of a slice."""

    @property
    def rows_S(self) -> Array:
        """int64: rows of every sample."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
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

    def going_on_with(self, cache: Cache) -> Prepared:
        """The same, whose samples must be those that a cache already has parts about."""
        return self if self.known is None else replace(self, samples=self.known(cache))

    def pilot(self, rows: int) -> list[Any]:
        """Samples spread evenly over one view of the data, with about `rows` rows between them."""
        return [self.samples[index] for index in spread(self.manifest.samples, self.manifest.rows, rows)]


def prepare(settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
    """The plan of a dump; loads no weights.

    Raises:
        BadInput: data or options that cannot be used.
        ModelError: a teacher whose configuration cannot be loaded, or that does not belong to the task.
    """
    found: Prepared = TASKS[settings.task](settings, progress)
    return found


def created_by() -> dict[str, str]:
    """The software that writes a plan, by name."""
    return {
        "logitstore": logitstore.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def teacher_info(settings: DumpSettings, config: PretrainedConfig, vocabulary: int, width: int | None) -> TeacherInfo:
    """Who will answer, but for the fingerprint of the weights."""
    architecture, plain = describe(config)
    return TeacherInfo(
        name=settings.teacher,
        revision=getattr(config, "_commit_hash", None),
        fingerprint="",
        dtype=settings.dtype,
        vocabulary=vocabulary,
        width=width,
        architecture=architecture,
        config=plain,
    )


def refuse_options(settings: DumpSettings, names: Iterable[str]) -> None:
    """Refuse options that are about another task.

    Raises:
        BadInput: naming the first that was given.
    """
    for name in names:
        if (
            name in settings.model_fields_set
            and getattr(settings, name) != settings.__class__.model_fields[name].default
        ):
            raise BadInput(f"--{name.replace('_', '-')}: it means nothing to --task {settings.task}. Leave it out.")
