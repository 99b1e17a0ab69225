"""Texts for a student: loaders, tokenizers, and checks that a student fits."""

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
from logitstore.models.causal import check_causal, check_packing, position_limit, refuse_other_heads
from logitstore.models.head import LinearHead
from logitstore.models.load import config_from, describe, load_config
from logitstore.models.shape import head_rows
from logitstore.models.tokens.tokenizer import check_tokenizer, own_tokenizer, tokenizer_for
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.tasks import refuse_set
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.index.scored import group_codes, has_groups
from logitstore.store.selection import Selection
from logitstore.store.vocabulary import read_pieces
from logitstore.text.batches import TextCollator
from logitstore.text.contexts.read import check_contexts, contexts_of, longest_read
from logitstore.text.metrics import TextEvaluation, evaluate_text, judge_text
from logitstore.text.retokenise import TextLoader, encoded_anew
from logitstore.text.tokenizer import given_template, text_tokenizer
from logitstore.train.checks.run import has_cross_entropy
from logitstore.train.evaluate import counted, loaded
from logitstore.train.loader.curriculum import Curriculum
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.order import Order
from logitstore.train.loader.pairs import PairOrder
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.metrics import Evaluation, evaluate_batches
from logitstore.train.reweighting import AHEAD, Reweighting
from logitstore.train.sequences import order_of, scored_alone, sequence_method
from logitstore.train.students.build import loss_head
from logitstore.train.task import Place, RunData, Watch

START = 0.25
"""Share of the samples that a curriculum starts with, if the plan gives none."""


def check_reading(settings: TrainSettings) -> None:
    """Refuse options about what is read that do not go together.

    Raises:
        BadInput: names the options.
    """
    if settings.text and (settings.alpha != 0 or settings.terms or settings.objective == "none"):
        raise BadInput(
            f"--text with --alpha {settings.alpha}: no teacher has seen the student's own tokens. Give --alpha 0."
        )
    if settings.text and len(settings.students) != 1:
        raise BadInput("--text needs a --student with a tokenizer of its own, and no other.")
    if settings.text and settings.curriculum is not None:
        raise BadInput(
            f"--text with --curriculum {settings.curriculum}: text that is cut anew has no score. Leave one of them out."
        )
    others = {
        "--text": settings.text,
        f"--curriculum {settings.curriculum}": settings.curriculum is not None,
        f"--reweight-domains {settings.reweight_domains}": settings.reweight_domains is not None,
    }
    if settings.window_parts is not None and (named := [name for name, is_given in others.items() if is_given]):
        raise BadInput(
            f"--window-parts {settings.window_parts} with {named[0]}: it reads samples out of the order of the parts. "
            "Leave one out."
        )
    if settings.reweight_domains is not None and (settings.text or settings.curriculum is not None):
        other = "--text" if settings.text else f"--curriculum {settings.curriculum}"
        raise BadInput(
            f"--reweight-domains {settings.reweight_domains} with {other}: one of them decides what is read. Leave one out."
        )
    if settings.reweight_domains is not None and (settings.prune or len(settings.students) > 1):
        other = "--prune" if settings.prune else "several --student"
        raise BadInput(
            f"--reweight-domains {settings.reweight_domains} with {other}: what is read follows one student as it is. "
            "Leave one out."
        )
    if settings.reweight_kind is not None and settings.reweight_domains is None:
        raise BadInput(f"--reweight-kind {settings.reweight_kind}: it changes nothing without --reweight-domains.")
    if settings.curriculum_start is not None and settings.curriculum is None:
        raise BadInput(f"--curriculum-start {settings.curriculum_start:g}: it changes nothing without a --curriculum.")


class TextTraining:
    """What a student is shown of texts; see `logitstore.train.task.TrainTask`."""

    rows_only: Mapping[str, Any] = MappingProxyType({})

    def collator(self, cache: Cache, **options: Any) -> TextCollator:
        return TextCollator(cache, **options)

    def check(self, settings: TrainSettings, cache: Cache, students: Sequence[ModelRef]) -> None:
        check_reading(settings)
        check_contexts(settings)
        if not settings.text:
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
        return _opened(settings, cache, student, selection, taps, place, progress)

    def student_config(self, cache: Cache) -> dict[str, Any]:
        return describe(config_from(cache.manifest.teacher.config).get_text_config())[1]

    def config_entries(self, cache: Cache) -> dict[str, Any]:
        return {}

    def check_made(self, settings: TrainSettings, student: PreTrainedModel, name: str, loader: BatchStream) -> None:
        _check_loaded(student, name, loader)
        if settings.packed:
            check_packing(student, name)

    def loss_head(self, student: PreTrainedModel, loader: BatchStream) -> tuple[LinearHead | None, str]:
        return loss_head(student, loader)

    def saver(self, settings: TrainSettings, cache: Cache, student: ModelRef | None) -> Callable[[Path], None]:
        """Load the tokenizer now, so that a broken one is refused before training; with the template of the texts."""
        tokenizer = tokenizer_for(cache, student)
        if (template := given_template(cache)) is not None:
            tokenizer.chat_template = template
        return lambda folder: tokenizer.save_pretrained(str(folder))

    def evaluate(
        self,
        settings: EvaluateSettings,
        cache: Cache,
        student: ModelRef,
        progress: Progress,
        watch: Watch | None = None,
    ) -> Evaluation | TextEvaluation:
        kept_M: SampleSet | None = None
        if settings.samples == "heldout":
            kept_M = SampleSet(kept_out(cache, settings.holdout))
        if settings.text:
            refuse_set(settings, ("contexts",), "with --text the student reads no answers of a teacher")
            samples_M = np.arange(len(cache)) if kept_M is None else np.asarray(kept_M)
            texts = encoded_anew(cache, samples_M, text_tokenizer(student), progress)
            text_loader = TextLoader(texts, batch_size=settings.batch_size, shuffle=False)
            model, device = loaded(settings, student, cache.manifest.task)
            _check_loaded(model, student, text_loader)
            return evaluate_text(model, counted(text_loader, progress), device, size=text_loader.text_bytes)
        cache.check_targets("evaluate (without --text)")
        check_student(cache, student)
        contexts = contexts_of(cache, settings.contexts, progress)
        loader = evaluation_loader(cache, kept_M, batch_size=settings.batch_size, contexts=contexts)
        model, device = loaded(settings, student, cache.manifest.task)
        _check_loaded(model, student, loader)
        return evaluate_batches(model, counted(loader, progress), loader.targets, device, watch=watch)


def _check_loaded(student: PreTrainedModel, name: object, loader: BatchStream) -> None:
    """Refuse a student that cannot take the samples, or that looks at the tokens it is to predict.

    Raises:
        CacheMismatch: a sample is longer than the student's positions.
        ModelError: the student is not causal.
    """
    limit, longest = position_limit(student.config), longest_read(loader)
    if limit is not None and longest > limit:
        raise CacheMismatch(
            f"the cache has samples of {longest} tokens; the student takes at most {limit}. "
            f"Choose another student, or dump with --max-length {limit}."
        )
    check_causal(student, name)


def _opened(
    settings: TrainSettings,
    cache: Cache,
    student: ModelRef | None,
    selection: Selection | None,
    taps: list[str],
    place: Place,
    progress: Progress,
) -> RunData:
    """Open the texts to train on, and those of the documents that are held out."""
    kept_out_S = kept_out(cache, settings.holdout)
    train_M = chosen(cache, selection, kept_out_S)
    held_M = SampleSet(kept_out_S)
    options: dict[str, Any] = {"batch_size": settings.batch_size, **vars(place)}
    mixing: dict[str, Any] = {"seed": settings.seed, "packed": settings.packed, **options}
    if settings.text and student is not None:
        tokenizer = text_tokenizer(student)
        anew = TextLoader(encoded_anew(cache, np.asarray(train_M), tokenizer, progress), **mixing)
        judged = None
        if len(held_M):
            judged = TextLoader(encoded_anew(cache, np.asarray(held_M), tokenizer, progress), shuffle=False, **options)
        return RunData(train=anew, held_out=judged, judge=judge_text)
    contexts = contexts_of(cache, settings.contexts, progress)
    options["contexts"] = mixing["contexts"] = contexts
    order: Order | None = None
    weights_S = reweighting = None
    notes = _notes(settings, cache)
    method = sequence_method(settings)
    if method is not None and not method.in_pairs:
        # before anything that counts the samples to train on
        has_score_S, more = scored_alone(settings, cache, train_M.mask())
        train_M = SampleSet(has_score_S)
        notes += more
    if settings.reweight_domains is not None:
        reweighting = Reweighting(
            cache,
            np.asarray(train_M),
            np.asarray(held_M),
            seed=settings.seed,
            batch_size=settings.batch_size,
            step_samples=settings.batch_size * settings.accumulate * place.world_size,
            every=settings.reweight_domains,
            kind=settings.reweight_kind,
        )
        order = reweighting.order
        mixing["ahead"] = AHEAD
    if settings.curriculum is not None:
        start = START if settings.curriculum_start is None else settings.curriculum_start
        order = Curriculum.of(settings.curriculum, cache.nll()[np.asarray(train_M)], settings.seed, start)
    if selection is not None and selection.weight_M is not None:
        weights_S = np.ones(len(cache), np.float32)
        weights_S[selection.samples_M] = selection.weight_M
    if method is not None and weights_S is not None:
        raise BadInput(
            f"--select {settings.select} with --objective {settings.objective}: its samples have weights, which count "
            "single tokens. Select by another method."
        )
    if method is not None and method.in_pairs:
        pairs, more = order_of(settings, cache, train_M.mask())
        order, mixing["epoch_samples"] = pairs, 2 * len(pairs.pairs_P2)
        notes += more
    together = settings.window_parts
    # pairs name samples of the cache itself
    samples = None if isinstance(order, PairOrder) else train_M
    loader = Loader(cache, samples=samples, taps=taps, order=order, window_parts=together, weights=weights_S, **mixing)
    return RunData(
        train=loader,
        held_out=evaluation_loader(cache, held_M, window_parts=together, **options) if len(held_M) else None,
        judge=evaluate_batches if loader.has_targets else judge_text,
        companion=reweighting,
        notes=notes,
        facts={} if contexts is None else {"contexts": contexts.checksum},
    )


def _notes(settings: TrainSettings, cache: Cache) -> list[str]:
    """Say so where positions without a row teach the student nothing."""
    positions = cache.manifest.text[1].positions
    if positions is None or has_cross_entropy(settings):
        return []
    return [
        f"note: the cache has rows at a share of the positions ({positions}), and with --alpha 1 nothing is learned about the "
        "others. --alpha 0.5 takes their gold tokens too."
    ]


def kept_out(cache: Cache, share: float) -> Array:
    """Return bool[S]: True for the held-out samples, of a share of the groups, or of the documents without any."""
    return held_out(group_codes(cache) if has_groups(cache) else cache.column("documents"), share)


def chosen(cache: Cache, selection: Selection | None, kept_out_S: Array) -> SampleSet:
    """Return the samples to train on."""
    if selection is None:
        return SampleSet(~kept_out_S)
    is_left_S = np.zeros(len(kept_out_S), np.bool_)
    is_left_S[selection.samples_M] = True
    is_left_S &= ~kept_out_S
    if not is_left_S.any():
        raise BadInput(
            f"{cache.path}: every chosen sample is of a document that is held out. Choose more, or a smaller --holdout."
        )
    return SampleSet(is_left_S)


def check_student(cache: Cache, student: ModelRef) -> None:
    """Compare a student's head and tokenizer with the cache's.

    Raises:
        ModelError: there is no such model.
        CacheMismatch: the student's head has fewer rows than the teacher's vocabulary, or its tokenizer has other tokens.
    """
    config = load_config(student)
    refuse_other_heads(config, student)
    rows, needed = head_rows(config), cache.manifest.teacher.vocabulary
    if rows < needed:
        raise CacheMismatch(
            f"{student}: targets in {cache.path} name token ids up to {needed - 1}, but the student's head has {rows} "
            f"rows. Choose a student with at least {needed} rows, or dump again with its tokenizer; "
            "--text (in train with --alpha 0) takes the text alone."
        )
    tokenizer = own_tokenizer(student)
    if tokenizer is not None:
        check_tokenizer(tokenizer, cache.manifest.text[0], str(student), read_pieces(cache).to_pylist())
