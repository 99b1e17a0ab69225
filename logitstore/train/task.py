"""What a task does for training: it says what a student is shown, which students fit, and what is saved beside one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitstore.core.progress import Progress
from logitstore.core.tasks import facet
from logitstore.core.types import ModelRef
from logitstore.models.head import LinearHead
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Collator
from logitstore.train.loader.stream import BatchStream
from logitstore.train.metrics import Watch, evaluate_batches

Judge = Callable[..., Any]
"""Judges a student on batches: (student, batches, decode, device, reduce) -> a record of figures; see `evaluate_batches`."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a process stands among those that train together.

    Attributes:
        rank, world_size: this process, and how many there are.
        workers: threads that prepare batches.
    """

    rank: int = 0
    world_size: int = 1
    workers: int = 1


class Companion(Protocol):
    """Something that changes with the student, such as the shares of domains; also a callback of the Trainer."""

    def begin(self, student: PreTrainedModel, device: torch.device, checkpoint: str | None) -> None:
        """Look at the student before the first batch is asked for."""
        ...

    def save(self, folder: Path) -> None:
        """Write what a resumed run needs into the folder of a checkpoint."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunData:
    """What a run reads.

    Attributes:
        train: the batches to train on.
        held_out: the batches to judge on, if anything is held out.
        judge: judges a student on them.
        companion: changes with the student, if anything does.
        unlabelled: how many of the samples that are trained on have no gold tokens or label.
        notes: what the user should know of them before training begins.
        facts: what the run reads besides its cache, by name; a run that is resumed reads the same.
    """

    train: BatchStream
    held_out: BatchStream | None
    judge: Judge = evaluate_batches
    companion: Companion | None = None
    unlabelled: int = 0
    notes: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


class TrainTask(Protocol):
    """What a task shows a student; the third facet of a task, see `logitstore.core.tasks`."""

    rows_only: Mapping[str, Any]
    """Options of a loader whose batches leave out what is costly to make and only a student looks at."""

    def collator(self, cache: Cache, **options: Any) -> Collator:
        """Return what lays the samples of a cache into batches; see `logitstore.train.loader.collate`.

        Raises:
            BadInput: options that mean nothing to the task.
        """
        ...

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        """Refuse, before any weights are loaded, settings and students that do not fit the cache.

        Raises:
            BadInput, CacheMismatch, ModelError: naming what does not fit.
        """
        ...

    def open(
        self,
        settings: TrainSettings,
        cache: Cache,
        student: ModelRef | None,
        selection: Selection | None,
        taps: list[str],
        place: Place,
        progress: Progress,
    ) -> RunData:
        """Open what a run reads; reads no row.

        Args:
            settings: of the run.
            cache: to read.
            student: the first student; None for a fresh one.
            selection: the samples to train on, but for those held out; None for all.
            taps: names of the teacher's features that are read to train on.
            place: of this process.
            progress: receives the steps.

        Raises:
            BadInput: nothing is left to train on.
        """
        ...

    def student_config(self, cache: Cache) -> dict[str, Any]:
        """Return the configuration of a fresh student shaped like the teacher, as plain JSON."""
        ...

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        """Return what every student's configuration must say, such as the names of the classes."""
        ...

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Try a student that is made, before it is trained.

        Raises:
            CacheMismatch, ModelError: it cannot take what it will be shown.
        """
        ...

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
        """Return the output layer that the loss may include, and otherwise why there is none."""
        ...

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Return what saves the tokenizer or the image processor beside a trained student.

        Raises:
            ModelError: what would be saved cannot be read.
        """
        ...

    def evaluate(
        self,
        settings: EvaluateSettings,
        cache: Cache,
        student: ModelRef,
        progress: Progress,
        watch: Watch | None = None,
    ) -> Any:
        """Judge a student on what a cache holds; return a record of figures.

        Args:
            settings: of the command.
            cache: to read.
            student: to judge.
            progress: receives the steps.
            watch: is shown every batch; given only to a task among whose options of `evaluate` is `figures`.

        Raises:
            BadInput, CacheMismatch, ModelError: the student does not fit, or there is nothing to judge it on.
        """
        ...


def train_task(cache: Cache) -> TrainTask:
    """Return what the task of a cache does for training."""
    task: TrainTask = facet(cache.manifest.task, "training")
    return task


def same(sums: Tensor) -> Tensor:
    """Return sums as they are: those of a single process."""
    return sums


__all__ = ["Batch", "Companion", "Judge", "Place", "RunData", "TrainTask", "Watch", "same", "train_task"]
