"""Queries with documents for a student: how it reads them, checks that it fits, loaders, and figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from transformers import PretrainedConfig, PreTrainedModel

from logitstore.classification.encode import Encoder, padding_of, takes_types
from logitstore.classification.show import pieces_of
from logitstore.core.order import held_out
from logitstore.core.progress import Progress
from logitstore.core.types import Array, ModelRef
from logitstore.errors import BadInput, CacheMismatch
from logitstore.models.causal import position_limit
from logitstore.models.load import config_from, load_config
from logitstore.models.shape import head_rows, shape_of
from logitstore.models.tokens.tokenizer import first_other, own_tokenizer, tokenizer_for
from logitstore.ranking.batches import RankedCollator, Reading
from logitstore.ranking.metrics import RankEvaluation, evaluate_ranking
from logitstore.ranking.models import is_cross_encoder, pooling_of, refuse_no_score, score_pairs, write_modules
from logitstore.ranking.sample import info_of
from logitstore.ranking.stored import ranked_of
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.selection import Selection
from logitstore.train.checks.run import has_cross_entropy
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.task import Place, RunData


def reading_of(cache: Cache, student: ModelRef | None) -> Reading:
    """Return how a student reads the pairs of a cache: a bi-encoder from the texts; a cross-encoder in the stored tokens if its
    own tokenizer has these, or if it has none, otherwise from the texts.

    Raises:
        CacheMismatch: it reads texts and the cache keeps none, or it takes fewer tokens than there are.
    """
    data, stored = info_of(cache.manifest), Reading.stored(cache)
    if student is None:
        config = config_from(cache.manifest.teacher.config)
        return Reading(padding=stored.padding, has_types=data.token_types and takes_types(config, 1))
    config, tokenizer = load_config(student), own_tokenizer(student)
    limit = position_limit(config)
    longest = data.max_length if limit is None else min(limit, data.max_length)
    if not is_cross_encoder(config):
        if not data.texts:
            raise CacheMismatch(
                f"{student}: a bi-encoder reads queries and documents each alone, and {cache.path} keeps no texts. Dump again "
                "without --no-texts."
            )
        own = tokenizer if tokenizer is not None else tokenizer_for(cache, None)
        return Reading(padding=padding_of(own), encode=Encoder(own, longest), has_types=False, is_alone=True)
    other = None if tokenizer is None else first_other(tokenizer, data.tokenizer, pieces_of(cache).to_pylist())
    if tokenizer is None or other is None:
        _check_fits(cache, student, config, limit)
        padding = stored.padding if tokenizer is None else padding_of(tokenizer)
        return Reading(padding=padding, has_types=data.token_types and takes_types(config, 1))
    if not data.texts:
        first, there, own_piece = other
        raise CacheMismatch(
            f"{student}: its tokenizer is not the cache's: id {first} is {own_piece!r} there and {there!r} in the cache, and "
            f"{cache.path} keeps no texts. Choose a student with the teacher's tokenizer, or dump again without --no-texts."
        )
    return Reading(padding=padding_of(tokenizer), encode=Encoder(tokenizer, longest), has_types=takes_types(config, 1))


def _check_fits(cache: Cache, student: ModelRef, config: PretrainedConfig, limit: int | None) -> None:
    data = info_of(cache.manifest)
    if head_rows(config) < data.tokenizer.size:
        raise CacheMismatch(
            f"{student}: it takes token ids below {head_rows(config)}, and {cache.path} has ids up to "
            f"{data.tokenizer.size - 1}. Choose a student for this tokenizer, or save the student's own tokenizer with it."
        )
    if limit is not None and limit < data.max_length and limit < longest_of(cache):
        raise CacheMismatch(
            f"{student}: it takes at most {limit} tokens, and {cache.path} has longer pairs. Choose another student, or dump "
            f"with --max-length {limit}."
        )


def longest_of(cache: Cache) -> int:
    """Return the most tokens of a pair of a cache."""
    return max((ranked_of(cache.samples_of(part)).longest() for part in cache.part_numbers), default=0)


def relevant_S(cache: Cache) -> Array:
    """Return bool[S]: whether a document of each query is relevant by the labels."""
    found = [
        np.add.reduceat(file.label_N > 0, file.row_start_S) > 0
        for file in (ranked_of(cache.samples_of(part)) for part in cache.part_numbers)
        if len(file)
    ]
    return np.concatenate([*found, np.zeros(0, np.bool_)])


_COMPARING = ("margin_mse", "ranknet", "list_kl")
"""Objectives that compare the documents of a query with each other."""


class RankedTraining:
    """What a student is shown of queries; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> RankedCollator:
        return RankedCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        if settings.also:
            raise BadInput(
                f"--also {settings.also[0]}: scores of several teachers are not learned from side by side. Take their mean "
                "with `logitstore merge`, and train on that."
            )
        _check_labels(settings, cache)
        readings = []
        for student in students:
            config = load_config(student)
            if is_cross_encoder(config):
                refuse_no_score(config, student)
                if settings.pooling is not None:
                    raise BadInput(
                        f"--pooling {settings.pooling}: {student} is a cross-encoder, which pools nothing. Leave it "
                        "out."
                    )
            else:
                pooling_of(student, config, settings.pooling)
            readings.append(reading_of(cache, student))
        if not students and settings.pooling is not None:
            raise BadInput(
                f"--pooling {settings.pooling}: a fresh student is a cross-encoder like the teacher. Give an encoder as "
                "--student."
            )
        if len(students) > 1 and any(each.encode is not None or each != readings[0] for each in readings):
            raise BadInput(
                "several --student that read the texts in different ways: bi-encoders, or cross-encoders whose tokenizers or "
                "token types differ. Train each in a run of its own."
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
        kept_out_S = held_out(cache.column("documents"), settings.holdout)
        is_read_S, weights_S = ~kept_out_S, None
        if selection is not None:
            is_chosen_S, weights_S = selection.among(cache)
            is_read_S &= is_chosen_S
        if not is_read_S.any():
            raise BadInput(
                f"{cache.path}: no query is left to train on. Choose more, or give a smaller --holdout than "
                f"{settings.holdout:g}."
            )
        unlabelled = int(np.count_nonzero(is_read_S & ~relevant_S(cache)))
        if unlabelled == np.count_nonzero(is_read_S) and has_cross_entropy(settings):
            raise BadInput(
                f"{cache.path}: the queries to train on have no relevant document, so there is no cross-entropy. Give "
                "--alpha 1."
            )
        options: dict[str, Any] = {
            "reading": reading_of(cache, student),
            "batch_size": settings.batch_size,
            "window_parts": settings.window_parts,
            **vars(place),
        }
        train = Loader(cache, samples=SampleSet(is_read_S), taps=taps, seed=settings.seed, weights=weights_S, **options)
        judged = evaluation_loader(cache, SampleSet(kept_out_S), **options) if kept_out_S.any() else None
        return RunData(train=train, held_out=judged, judge=evaluate_ranking, unlabelled=unlabelled)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return dict(cache.manifest.teacher.config)

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return {}

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        """Tell a decoder what padding is, where its configuration does not, and make an encoder score pairs."""
        if student.config.pad_token_id is None and isinstance(loader, Loader):
            student.config.pad_token_id = info_of(loader.cache.manifest).pad
        if not is_cross_encoder(student.config):
            where = student.name_or_path or name
            score_pairs(student, pooling_of(ModelRef(name=where), student.config, settings.pooling))

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[None, str]:
        return None, "scores are one number each"

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Load the tokenizer now, so that a broken one is refused before training."""
        tokenizer = tokenizer_for(cache, student)
        if student is None or is_cross_encoder(config := load_config(student)):
            return lambda folder: tokenizer.save_pretrained(str(folder))
        reading, pooling = reading_of(cache, student), pooling_of(student, config, settings.pooling)
        longest = info_of(cache.manifest).max_length if reading.encode is None else reading.encode.max_length

        def save(folder: Path) -> None:
            tokenizer.save_pretrained(str(folder))
            write_modules(folder, int(shape_of(config)["hidden_size"]), longest, pooling)

        return save

    def evaluate(
        self, settings: EvaluateSettings, cache: Cache, student: ModelRef, progress: Progress
    ) -> RankEvaluation:
        cache.check_targets("evaluate")
        config = load_config(student)
        if is_cross_encoder(config):
            refuse_no_score(config, student)
        kept_M: SampleSet | None = None
        if settings.samples == "heldout":
            kept_M = SampleSet(held_out(cache.column("documents"), settings.holdout))
        reading = reading_of(cache, student)
        loader = evaluation_loader(cache, kept_M, batch_size=settings.batch_size, reading=reading)
        model, device = loaded(settings, student, cache.manifest.task)
        if model.config.pad_token_id is None:
            model.config.pad_token_id = reading.padding.token
        if not is_cross_encoder(config):
            score_pairs(model, pooling_of(student, config))
        return evaluate_ranking(model, counted(loader, progress), loader.targets, device)


def _check_labels(settings: TrainSettings, cache: Cache) -> None:
    """Refuse what compares documents of a query where none has two, and what needs labels where there are none.

    Raises:
        BadInput: a part of the loss would be 0 throughout.
    """
    used = [(settings.objective, settings.options), *((term.name, term.options) for term in settings.terms)]
    has_labels = has_cross_entropy(settings)
    if int(cache.row_counts().max(initial=0)) < 2 and (has_labels or any(name in _COMPARING for name, _ in used)):
        raise BadInput(
            f"{settings.cache}: each of its queries has one document, and the loss compares those of a query. Give --objective "
            "score_mse --alpha 1, or dump the queries with several documents."
        )
    if has_labels and not relevant_S(cache).any():
        raise BadInput(
            f"{settings.cache}: none of its queries has a document that the labels find relevant, so there is no "
            "cross-entropy. Give --alpha 1."
        )
    by_labels = any(name == "margin_mse" and options.get("pairs", "labels") == "labels" for name, options in used)
    if by_labels and not _has_preference(cache):
        raise BadInput(
            f"{settings.cache}: of no query do the labels find one document more relevant than another, and margin_mse "
            "compares these. Set its option pairs to all in a recipe, or take list_kl."
        )


def _has_preference(cache: Cache) -> bool:
    """Return whether two judged documents of some query have different labels."""
    for file in (ranked_of(cache.samples_of(part)) for part in cache.part_numbers):
        if len(file):
            least_N = np.where(file.label_N < 0, np.iinfo(np.int64).max, file.label_N)
            highest_S = np.maximum.reduceat(file.label_N, file.row_start_S)
            if (highest_S > np.minimum.reduceat(least_N, file.row_start_S)).any():
                return True
    return False
