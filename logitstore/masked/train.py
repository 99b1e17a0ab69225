"""Masked texts for a student: checks that it fits, loaders, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import Array, ModelRef
from logitstore.errors import BadInput, CacheMismatch
from logitstore.masked.batches import MaskedCollator
from logitstore.masked.models import check_masked
from logitstore.models.causal import position_limit
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config
from logitstore.models.shape import head_rows
from logitstore.models.tokens.tokenizer import first_other, own_tokenizer, tokenizer_for
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.store.vocabulary import read_pieces
from logitstore.train.checks.run import refuse_unjudged
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.views.order import view_order, views_in
from logitstore.train.metrics import Evaluation, evaluate_batches
from logitstore.train.students.build import loss_head
from logitstore.train.task import Place, RunData


def check_student(cache: Cache, student: ModelRef) -> None:
    """Compare a student's kind, output layer, positions and tokenizer with the cache's.

    Raises:
        ModelError: there is no such model, or it is no masked language model.
        CacheMismatch: its output layer has fewer rows than the teacher's vocabulary, it takes fewer tokens than the texts have,
            or its tokenizer has other tokens.
    """
    config = load_config(student)
    check_masked(config, student)
    rows, needed = head_rows(config), cache.manifest.teacher.vocabulary
    if rows < needed:
        raise CacheMismatch(
            f"{student}: targets in {cache.path} name token ids up to {needed - 1}, but the student's head has {rows} "
            f"rows. Choose a student with at least {needed} rows, or dump a teacher that has its tokenizer."
        )
    limit = position_limit(config)
    if limit is not None and limit < (longest := int(cache.column("lengths").max(initial=0))):
        raise CacheMismatch(
            f"{student}: it takes at most {limit} tokens, and {cache.path} has texts of {longest}. Choose another student, or "
            f"dump with --max-length {limit}."
        )
    tokenizer, expected = own_tokenizer(student), cache.manifest.tokenizer
    if tokenizer is None or expected is None:
        return
    if (other := first_other(tokenizer, expected, read_pieces(cache).to_pylist())) is not None:
        first, there, own = other
        raise CacheMismatch(
            f"{student}: its tokenizer is not the cache's: id {first} is {own!r} there and {there!r} in the cache. Choose a "
            "student with the teacher's tokenizer, or dump a teacher that has the student's."
        )


class MaskedTraining:
    """What a student is shown of masked texts; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> MaskedCollator:
        return MaskedCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        refuse_unjudged(settings, cache)
        for student in students:
            check_student(cache, student)

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
        """Open the texts to train on, in the mask of each epoch, and the first mask of those that are held out."""
        kept_out_S = held_out(cache.column("documents"), settings.holdout)
        options: dict[str, Any] = {"batch_size": settings.batch_size, **vars(place)}
        reading: dict[str, Any] = {"taps": taps, "seed": settings.seed}
        is_read_S, weights_S = ~kept_out_S, None
        if selection is not None:
            is_chosen_S, weights_S = selection.among(cache)
            is_read_S &= is_chosen_S
        if not is_read_S.any():
            raise BadInput(
                f"{cache.path}: no text is left to train on. Choose more, or give a smaller --holdout than "
                f"{settings.holdout:g}."
            )
        if settings.views is not None or cache.manifest.views > 1:
            first = cache.first_sample_of(views_in(cache, settings.views)[0])
            texts = SampleSet(is_read_S[first : first + cache.manifest.samples])
            order = view_order(cache, texts, settings.views, 1, settings.seed, settings.window_parts)
            reading |= {"order": order, "epoch_samples": order.epoch_samples, "windows": order.windows}
        else:
            reading |= {"samples": SampleSet(is_read_S), "window_parts": settings.window_parts}
        train = Loader(cache, weights=weights_S, **reading, **options)
        judged_S = _first_masks(cache, kept_out_S)
        judged = (
            evaluation_loader(cache, SampleSet(judged_S), window_parts=settings.window_parts, **options)
            if judged_S.any()
            else None
        )
        return RunData(train=train, held_out=judged)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return cache.manifest.teacher.config

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return {}

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Check nothing: what a student must be, its configuration says."""

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
        return loss_head(student, loader)

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Load the tokenizer now, so that a broken one is refused before training."""
        tokenizer = tokenizer_for(cache, student)
        return lambda folder: tokenizer.save_pretrained(str(folder))

    def evaluate(self, settings: EvaluateSettings, cache: Cache, student: ModelRef, progress: Progress) -> Evaluation:
        """Judge a student on the first mask of each text."""
        cache.check_targets("evaluate")
        check_student(cache, student)
        is_judged_S = np.ones(len(cache), np.bool_)
        if settings.samples == "heldout":
            is_judged_S = held_out(cache.column("documents"), settings.holdout)
        loader = evaluation_loader(cache, SampleSet(_first_masks(cache, is_judged_S)), batch_size=settings.batch_size)
        model, device = loaded(settings, student, cache.manifest.task)
        return evaluate_batches(model, counted(loader, progress), loader.targets, device)


def _first_masks(cache: Cache, is_asked_S: Array) -> Array:
    """Return bool[S]: of some samples, those of the first view that is whole; all of them where none is."""
    if not (whole := cache.whole_views):
        return is_asked_S
    first = cache.first_sample_of(whole[0])
    is_first_S = np.zeros(len(is_asked_S), np.bool_)
    is_first_S[first : first + cache.manifest.samples] = True
    return np.asarray(is_asked_S & is_first_S)
