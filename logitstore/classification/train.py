"""Classified texts for a student: how it reads them, checks that it fits, loaders, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.classification.batches import ClassifiedCollator, Reading
from logitstore.classification.encode import Encoder, padding_of, takes_types
from logitstore.classification.metrics import ClassEvaluation, evaluate_classes
from logitstore.classification.sample import encoded_info_of, info_of
from logitstore.classification.show import pieces_of
from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import Array, ModelRef
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.tap_names import FINAL
from logitstore.models.causal import position_limit
from logitstore.models.load import config_from, load_config
from logitstore.models.shape import head_rows
from logitstore.models.tokens.tokenizer import first_other, own_tokenizer, tokenizer_for
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.checks.run import has_cross_entropy, needing_labels, refuse_unjudged
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.students.classes import check_classifier, class_names
from logitstore.train.task import Judge, Place, RunData, Watch


def reading_of(cache: Cache, student: ModelRef | None) -> Reading:
    """Return how a student reads the texts of a cache: in the stored tokens if its own tokenizer has these, or if it has none;
    otherwise from the texts.

    Raises:
        CacheMismatch: its tokenizer is another one and the cache keeps no texts, or it takes fewer tokens than there are.
    """
    data, stored = encoded_info_of(cache.manifest), Reading.stored(cache)
    if student is None:
        return Reading(padding=stored.padding, has_types=takes_types_of(cache, config_of(cache)))
    config, tokenizer = load_config(student), own_tokenizer(student)
    limit = position_limit(config)
    other = None if tokenizer is None else first_other(tokenizer, data.tokenizer, pieces_of(cache).to_pylist())
    if tokenizer is None or other is None:
        _check_fits(cache, student, config, limit)
        padding = stored.padding if tokenizer is None else padding_of(tokenizer)
        return Reading(padding=padding, has_types=takes_types_of(cache, config))
    if not data.texts:
        first, there, own = other
        raise CacheMismatch(
            f"{student}: its tokenizer is not the cache's: id {first} is {own!r} there and {there!r} in the cache, and "
            f"{cache.path} keeps no texts. Choose a student with the teacher's tokenizer, or dump again without --no-texts."
        )
    longest = data.max_length if limit is None else min(limit, data.max_length)
    return Reading(padding=padding_of(tokenizer), encode=Encoder(tokenizer, longest), has_types=takes_types(config, 1))


def config_of(cache: Cache) -> PretrainedConfig:
    """Return the configuration of the teacher."""
    from_plain: PretrainedConfig = config_from(cache.manifest.teacher.config)
    return from_plain


def takes_types_of(cache: Cache, config: PretrainedConfig) -> bool:
    """Return True if a model is shown the token types of a cache: 0 and 1, or 2 as well for an XLNet."""
    return encoded_info_of(cache.manifest).token_types and takes_types(config, 1)


def _check_fits(cache: Cache, student: ModelRef, config: PretrainedConfig, limit: int | None) -> None:
    data = encoded_info_of(cache.manifest)
    if head_rows(config) < data.tokenizer.size:
        raise CacheMismatch(
            f"{student}: it takes token ids below {head_rows(config)}, and {cache.path} has ids up to "
            f"{data.tokenizer.size - 1}. Choose a student for this tokenizer, or save the student's own tokenizer with it."
        )
    if limit is not None and limit < data.max_length and limit < int(cache.column("lengths").max()):
        raise CacheMismatch(
            f"{student}: it takes at most {limit} tokens, and {cache.path} has longer texts. Choose another student, or dump "
            f"with --max-length {limit}."
        )


def split(settings: TrainSettings, cache: Cache, selection: Selection | None) -> tuple[Array, Array, Array | None]:
    """Return which texts are held out and which are trained on, bool[S] each, and what these count, float32[S] or None.

    Raises:
        BadInput: nothing is left to train on.
    """
    kept_out_S = held_out(cache.column("documents"), settings.holdout)
    is_read_S, weights_S = ~kept_out_S, None
    if selection is not None:
        is_chosen_S, weights_S = selection.among(cache)
        is_read_S &= is_chosen_S
    if not is_read_S.any():
        raise BadInput(
            f"{cache.path}: no text is left to train on. Choose more, or give a smaller --holdout than "
            f"{settings.holdout:g}."
        )
    return kept_out_S, is_read_S, weights_S


class ClassifiedTraining:
    """What a student is shown of classified texts; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> ClassifiedCollator:
        return ClassifiedCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        data, manifest = info_of(cache.manifest), cache.manifest
        refuse_unjudged(settings, cache)
        without = f"{settings.cache}: {data.unlabelled:,} of its texts have no label"
        if data.unlabelled and (named := needing_labels(settings)):
            raise BadInput(f"{without}, and {named[0]} needs one for every text. Give an objective without labels.")
        if data.unlabelled == manifest.samples and has_cross_entropy(settings):
            raise BadInput(f"{without}, so there is no cross-entropy. Give --alpha 1.")
        readings = []
        for student in students:
            check_classifier(cache, student, may_begin=True)
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
        reading = reading_of(cache, student)
        if reading.encode is not None and (inner := [name for name in taps if name != FINAL]):
            raise CacheMismatch(
                f"{student}: its tokenizer is not the cache's, so its tokens are others than those of {inner[0]}. Choose a "
                "student with the teacher's tokenizer, or objectives on logits."
            )
        lacks_S = np.isnan(cache.nll()) & is_read_S
        unlabelled = int(np.count_nonzero(lacks_S))
        if unlabelled == np.count_nonzero(is_read_S) and has_cross_entropy(settings):
            raise BadInput(
                f"{cache.path}: the texts to train on have no label, so there is no cross-entropy. Give --alpha 1."
            )
        options: dict[str, Any] = {
            "reading": reading,
            "batch_size": settings.batch_size,
            "window_parts": settings.window_parts,
            **vars(place),
        }
        train = Loader(cache, samples=SampleSet(is_read_S), taps=taps, seed=settings.seed, weights=weights_S, **options)
        judged = evaluation_loader(cache, SampleSet(kept_out_S), **options) if kept_out_S.any() else None
        return RunData(train=train, held_out=judged, judge=judge_of(cache), unlabelled=unlabelled)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return cache.manifest.teacher.config | self.config_entries(cache)

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return class_names(cache)

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Tell a decoder what padding is, where its configuration does not: it judges a text by the last other token."""
        if student.config.pad_token_id is None and isinstance(loader, Loader):
            student.config.pad_token_id = info_of(loader.cache.manifest).pad

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[None, str]:
        return None, "a text classifier has few of them"

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Load the tokenizer now, so that a broken one is refused before training."""
        tokenizer = tokenizer_for(cache, student)
        return lambda folder: tokenizer.save_pretrained(str(folder))

    def evaluate(
        self,
        settings: EvaluateSettings,
        cache: Cache,
        student: ModelRef,
        progress: Progress,
        watch: Watch | None = None,
    ) -> ClassEvaluation:
        cache.check_targets("evaluate")
        check_classifier(cache, student)
        kept_M: SampleSet | None = None
        if settings.samples == "heldout":
            kept_M = SampleSet(held_out(cache.column("documents"), settings.holdout))
        reading = reading_of(cache, student)
        loader = evaluation_loader(cache, kept_M, batch_size=settings.batch_size, reading=reading)
        model, device = loaded(settings, student, cache.manifest.task)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = reading.padding.token
        judge = partial(judge_of(cache), watch=watch)
        figures: ClassEvaluation = judge(model, counted(loader, progress), loader.targets, device)
        return figures


def judge_of(cache: Cache) -> Judge:
    """Return what judges a student on the texts of a cache."""
    return partial(evaluate_classes, classes=cache.manifest.teacher.vocabulary)
