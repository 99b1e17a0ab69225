"""Texts with vectors for a student: how it reads and pools them, checks that it fits, loaders, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from logitstore.classification.train import reading_of, split
from logitstore.core.methods import method_of
from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import Array, ModelRef
from logitstore.embedding.batches import EmbeddedCollator
from logitstore.embedding.metrics import VectorEvaluation, evaluate_vectors
from logitstore.embedding.sample import info_of
from logitstore.embedding.stored import embedded_of
from logitstore.errors import BadInput
from logitstore.format.tap_names import FINAL
from logitstore.models.load import load_config
from logitstore.models.pooling.described import Pooling, read_pooling
from logitstore.models.pooling.encoder import PooledEncoder, refuse_no_encoder
from logitstore.models.tokens.tokenizer import tokenizer_for
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.task import Judge, Place, RunData
from logitstore.train.terms import all_terms


def pooling_of(cache: Cache) -> Pooling:
    """Return how a student pools that does not say it itself: as the teacher, without its dense layers."""
    data = info_of(cache.manifest)
    return Pooling(way=data.pooling, normalised=data.normalised, max_length=data.max_length)


class EmbeddedTraining:
    """What a student is shown of texts with vectors; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> EmbeddedCollator:
        return EmbeddedCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        for term in all_terms(settings):
            method = method_of(term.name)
            if method.form == "features" and not _is_of_vectors(term.name):
                raise BadInput(
                    f"terms: {term.name}: it compares rows within a text, and a text has one row. Give embedding_cosine, "
                    "embedding_mse, similarity_kl, similarity_mse or relational_distance."
                )
            if settings.batch_size < 2 and method.form == "features" and not _compares_channels(term.name):
                raise BadInput(
                    f"--batch-size 1: {term.name} compares the texts of a batch with each other, and there is one. Give more."
                )
        if settings.lora is not None and not settings.lora_merge:
            raise BadInput(
                f"--lora {settings.lora}: an adapter is saved without what follows the encoder. Add --lora-merge."
            )
        readings = []
        for student in students:
            refuse_no_encoder(load_config(student), student)
            read_pooling(student.name)
            readings.append(reading_of(cache, student))
        if len(students) > 1 and any(each.encode is not None or each != readings[0] for each in readings):
            raise BadInput(
                "several --student that read the texts in different ways: their tokenizers, or the token types that they "
                "take, differ. Train each in a run of its own."
            )

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
        kept_out_S, is_read_S, weights_S = split(settings, cache, selection)
        options: dict[str, Any] = {
            "reading": reading_of(cache, student),
            "batch_size": settings.batch_size,
            "window_parts": settings.window_parts,
            "taps": [FINAL],
            **vars(place),
        }
        train = Loader(cache, samples=SampleSet(is_read_S), seed=settings.seed, weights=weights_S, **options)
        if not kept_out_S.any():
            return RunData(train=train, held_out=None)
        judged = evaluation_loader(cache, SampleSet(kept_out_S), **options)
        return RunData(train=train, held_out=judged, judge=judge_of(cache, judged))

    def student_config(self, cache: Cache) -> dict[str, Any]:
        """Return the teacher's configuration, with its pooling and without its dense layers."""
        return cache.manifest.teacher.config | {"pooling": pooling_of(cache).plain()}

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return {}

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Let a student that does not say how it pools do it as the teacher.

        Where an objective compares channels, a linear layer takes a vector of another width to the teacher's; it is trained and
        saved as a part of the student.
        """
        if not isinstance(student, PooledEncoder) or not isinstance(loader, Loader):
            raise BadInput(f"{name}: it is no encoder with a pooling. Give a folder or a name of one.")
        cache = loader.cache
        if not student.is_settled:
            student.settle(pooling_of(cache))
        elif student.pooling.max_length is None:
            student.settle(replace(student.pooling, max_length=info_of(cache.manifest).max_length))
        width = cache.taps[FINAL].info.width
        by_channel = any(_compares_channels(term.name) for term in all_terms(settings))
        if student.width != width and by_channel:
            student.project(width)

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[None, str]:
        return None, "an encoder has none"

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Load the tokenizer now, so that a broken one is refused before training."""
        tokenizer = tokenizer_for(cache, student)
        return lambda folder: tokenizer.save_pretrained(str(folder))

    def evaluate(
        self, settings: EvaluateSettings, cache: Cache, student: ModelRef, progress: Progress
    ) -> VectorEvaluation:
        refuse_no_encoder(load_config(student), student)
        kept_M: SampleSet | None = None
        if settings.samples == "heldout":
            kept_M = SampleSet(held_out(cache.column("documents"), settings.holdout))
        options: dict[str, Any] = {"reading": reading_of(cache, student), "taps": [FINAL]}
        loader = evaluation_loader(cache, kept_M, batch_size=settings.batch_size, **options)
        model, device = loaded(settings, student, cache.manifest.task)
        if isinstance(model, PooledEncoder) and not model.is_settled:
            model.settle(pooling_of(cache))
        figures: VectorEvaluation = judge_of(cache, loader)(model, counted(loader, progress), None, device)
        return figures


def _is_of_vectors(name: str) -> bool:
    return hasattr(method_of(name).function, "of_vectors")


def _compares_channels(name: str) -> bool:
    return bool(getattr(method_of(name).function, "by_channel", False))


def judge_of(cache: Cache, loader: Loader) -> Judge:
    """Return what judges a student on the batches of a loader."""
    return partial(
        evaluate_vectors,
        vectors=lambda batch: loader.features(batch)[FINAL],
        pairs_S=cache.column("documents"),
        scores_S=scores_of(cache),
    )


def scores_of(cache: Cache) -> Array | None:
    """Return the score of the pair of each sample that is there, float64[S], NaN without one; None where there are none."""
    if info_of(cache.manifest).score_column is None:
        return None
    return np.concatenate([embedded_of(cache.part(number).samples).score_S for number in cache.part_numbers])
