"""Labelled texts for a student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import Array, ModelRef
from logitstore.errors import BadInput
from logitstore.models.tokens.tokenizer import tokenizer_for
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.store.taps import Tap
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, located_samples
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.metrics import Evaluation, evaluate_batches
from logitstore.train.students.classes import check_classifier, class_names
from logitstore.train.task import Place, RunData
from logitstore_short_texts.encode import Encoder


def encoder_for(cache: Cache, student: ModelRef | None) -> Encoder:
    """Return what encodes the texts for a student: its own tokenizer, else the teacher's."""
    return Encoder(tokenizer_for(cache, student), cache.manifest.data.max_length)


class LabelledTextCollator:
    """Lays labelled texts into batches; see `logitstore.train.loader.collate.Collator`."""

    def __init__(
        self,
        cache: Cache,
        *,
        packed: bool,
        taps: Sequence[Tap],
        weights: Array | None,
        bytes_per_batch: int,
        encode: Encoder | None = None,
    ) -> None:
        if packed:
            raise BadInput(f"{cache.path}: labelled texts cannot be packed. Leave that out.")
        self._cache, self._encode = cache, encode or encoder_for(cache, None)

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        located = located_samples(self._cache, samples_M)
        rows = len(located)
        samples = [part.samples.sample(place) for part, place in located]
        return Batch(
            inputs=self._encode([sample.text for sample in samples]),
            rows=torch.arange(rows),
            row_mask=torch.ones(rows, dtype=torch.bool),
            answer=gathered_answers(self._cache, located, [part.span(place) for part, place in located], rows),
            gold=torch.tensor([sample.label for sample in samples]),
            samples=torch.from_numpy(np.array(samples_M, np.int64)),
            counts=torch.ones(rows, dtype=torch.int64),
        )


class LabelledTextTraining:
    """What a student is shown of labelled texts; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> LabelledTextCollator:
        return LabelledTextCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        if len(students) > 1:
            raise BadInput("several --student: their tokenizers may differ. Train each in a run of its own.")
        for student in students:
            check_classifier(cache, student)

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
        options: dict[str, Any] = {
            "encode": encoder_for(cache, student),
            "batch_size": settings.batch_size,
            **vars(place),
        }
        kept_out_S = held_out(np.arange(len(cache)), settings.holdout)
        judged = None
        if kept_out_S.any():
            judged = Loader(cache, samples=np.flatnonzero(kept_out_S), shuffle=False, **options)
        train = Loader(cache, samples=np.flatnonzero(~kept_out_S), taps=taps, seed=settings.seed, **options)
        return RunData(train=train, held_out=judged)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return cache.manifest.teacher.config | class_names(cache)

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return class_names(cache)

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Check nothing more: texts are cut to what the teacher takes."""

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[None, str]:
        return None, "a text classifier has few of them"

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        return lambda folder: tokenizer_for(cache, student).save_pretrained(str(folder))

    def evaluate(self, settings: EvaluateSettings, cache: Cache, student: ModelRef, progress: Progress) -> Evaluation:
        cache.check_targets("evaluate")
        check_classifier(cache, student)
        samples_S = np.arange(len(cache))
        if settings.samples == "heldout":
            samples_S = np.flatnonzero(held_out(samples_S, settings.holdout))
        options: dict[str, Any] = {"batch_size": settings.batch_size, "encode": encoder_for(cache, student)}
        loader = Loader(cache, samples=samples_S, shuffle=False, **options)
        model, device = loaded(settings, student, cache.manifest.task)
        return evaluate_batches(model, counted(loader, progress), loader.targets, device)
