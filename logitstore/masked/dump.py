"""Masked texts for a teacher: the prepared dump, and the same for a cache whose teacher is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, amount, no_progress
from logitstore.core.types import Array, ModelRef
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.masked_lm import MaskedTeacher
from logitstore.dump.teachers.teacher import Batches, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.format.tap_names import FINAL, names_of
from logitstore.format.tasks.masked import MaskedInfo, MaskInfo
from logitstore.masked.encode import Windows, documents_of, length_for
from logitstore.masked.mask import Masker, masker_of
from logitstore.masked.models import check_masked
from logitstore.masked.sample import MaskedText, Window, info_of, laid, places_of
from logitstore.masked.stored import masked_of
from logitstore.models.load import load_config, load_tokenizer
from logitstore.models.placing.placement import Placement, refuse_impossible
from logitstore.models.shape import head_rows, layer_count
from logitstore.models.tokens.tokenizer import tokenizer_files
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary

PRESET = "small"
"""The preset if the user names none."""

SAMPLES_PER_PART = 1024


class MaskedDump:
    """What a teacher is shown of masked texts; see `logitstore.dump.task.DumpTask`."""

    no_plan = (
        "it measures teachers that predict the next token. `dump --dry-run` says what a dump of masked texts costs"
    )

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        self.taps(lambda: load_config(model_of(settings.teacher)), settings.hidden, settings.qkv)
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        return _reopened(cache, again)

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        refuse_set(settings, ("images", "workers"), f"{settings.cache} is a cache of masked texts")
        if settings.views is None and settings.hidden is None and settings.qkv is None:
            raise BadInput("add needs --hidden or --views: say which layers' features to add, or which masks.")
        self.taps(lambda: load_config(model_of(settings.teacher or cache.manifest.teacher.name)), None, settings.qkv)

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        if qkv is not None:
            raise BadInput(f"--qkv {qkv}: of masked language models only hidden states are kept. Give --hidden.")
        return names_of(hidden, None, 1 if hidden in (None, FINAL) else layer_count(config()))


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of masked texts. Options come first, then the data."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    if settings.mask_random + settings.mask_unchanged > 1:
        raise BadInput(
            f"--mask-random {settings.mask_random:g} and --mask-unchanged {settings.mask_unchanged:g}: together they are more "
            "than all masked tokens. Give less of one."
        )
    model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
    config = load_config(model)
    check_masked(config, model)
    placement = Placement.of(settings, settings.quantization)
    refuse_impossible(placement, config, model)
    tokenizer = load_tokenizer(model)
    vocabulary = Vocabulary.of(tokenizer.get_vocab())
    real = min(len(vocabulary.pieces), head_rows(config))
    width = getattr(config, "hidden_size", None)
    preset = settings.preset or PRESET
    row = row_of(preset, settings.choices(), real, width)
    check_teacher(settings, row, MaskedTeacher.gives)
    rule = rule_of(settings, tokenizer, vocabulary, model)
    if rule.token >= real:
        raise ModelError(
            f"{model}: its mask token is id {rule.token}, and it answers about ids below {real}. The model and the tokenizer "
            "do not belong together."
        )
    is_default = settings.max_length == DumpSettings.model_fields["max_length"].default
    max_length = length_for(settings.max_length, is_default, config, model)
    masker = masker_of(rule, real)
    column, texts = documents_of(settings)
    windows = Windows.of(texts, tokenizer, masker, max_length, model, real, progress)
    progress(Step(stage="data", done=1, total=1, note=_told(column, windows)))
    pad = tokenizer.pad_token_id
    samples = Views(windows, masker, settings.views, np.array([masker.count(free) for free in windows.free_S]))
    manifest = Manifest(
        task="masked-lm",
        teacher=teacher_info(settings, config, real, width),
        tokenizer=vocabulary.info(),
        data=MaskedInfo(
            source=settings.source,
            split=settings.split,
            kind="masked",
            column=column,
            limit=settings.limit,
            fingerprint=windows.fingerprint(rule),
            documents=windows.documents,
            skipped=windows.skipped,
            max_length=max_length,
            pad=0 if pad is None else pad,
            mask=rule,
        ),
        views=settings.views,
        samples=len(windows),
        rows=int(samples.rows_S.sum()),
        tokens=windows.count,
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=settings.batch_tokens,
        **row_entries(settings, preset, row, lambda: _pilot_rows(samples, settings.pilot_rows)),
    )
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=config,
        gives=MaskedTeacher.gives,
        batches=batches_for(manifest),
        largest_part=((1 << 31) - 1) // max_length,
        files=partial(_files, tokenizer, vocabulary),
        load=partial(MaskedTeacher, model, config, settings.dtype, settings.device, placement),
    )


def rule_of(
    settings: DumpSettings, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, who: ModelRef
) -> MaskInfo:
    """Return the rule of a dump. Raises ModelError: the tokenizer has no token for a mask."""
    token = tokenizer.mask_token_id
    if token is None:
        raise ModelError(f"{who}: its tokenizer has no mask token. Give a teacher that was trained on masked tokens.")
    named = {piece for piece, each in tokenizer.get_added_vocab().items() if _is_special(tokenizer, each)}
    special = set(tokenizer.all_special_ids) | {vocabulary.pieces.index(piece) for piece in named}
    holes = {place for place, piece in enumerate(vocabulary.pieces) if piece == ""}
    return MaskInfo(
        share=settings.mask_share,
        random=settings.mask_random,
        unchanged=settings.mask_unchanged,
        token=token,
        kept=tuple(sorted({int(each) for each in special | holes})),
        seed=settings.seed,
    )


def _is_special(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    added: Any = tokenizer.added_tokens_decoder.get(token)
    return added is not None and bool(added.special)


def _told(column: str, windows: Windows) -> str:
    without = f", {windows.skipped:,} with nothing to mask" if windows.skipped else ""
    return f"{amount(windows.documents, 'text')} of column '{column}'{without}, in {amount(len(windows), 'window')}"


class _Base(Protocol):
    """Windows before they are masked."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Window: ...


class Views:
    """All windows under all masks: mask 0 of all of them, then mask 1; see `logitstore.dump.task.AskedSamples`.

    Args:
        windows: before they are masked.
        masker: masks them.
        views: count of masks of each.
        rows_S: int64, count of rows of each window.
    """

    def __init__(self, windows: _Base, masker: Masker, views: int, rows_S: Array) -> None:
        self._windows, self._masker, self._views, self.rows_S = windows, masker, views, rows_S

    def __len__(self) -> int:
        return len(self._windows) * self._views

    def rows_in(self, span: slice) -> int:
        """Return how many rows the samples of a slice have."""
        numbers = np.arange(*span.indices(len(self)))
        return int(self.rows_S[numbers % len(self._windows)].sum())

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        view, number = divmod(range(len(self))[int(index)], len(self._windows))
        return self._masker.masked(self._windows[number], number, view)


class _CachedWindows:
    """The windows of a cache, from whichever of their views is there."""

    def __init__(self, cache: Cache) -> None:
        self._cache, manifest = cache, cache.manifest
        self._parts = {part % manifest.parts_of_view: part for part in reversed(cache.part_numbers)}

    def __len__(self) -> int:
        return self._cache.manifest.samples

    def __getitem__(self, number: int) -> Window:
        block, place = divmod(number, self._cache.manifest.samples_per_part)
        if block not in self._parts:
            raise BadInput(
                f"{self._cache.path}: no view has its window {number}. Finish the dump first: give its command again."
            )
        window: Any = self._cache.samples_of(self._parts[block]).sample(place)
        return Window(tokens_T=window.tokens_T, document=window.document, window=window.window, start=window.start)

    def rows_S(self) -> Array:
        """int64: count of rows of each window; 0 for those that are not there."""
        manifest = self._cache.manifest
        rows_S = np.zeros(len(self), np.int64)
        for block, part in self._parts.items():
            first = block * manifest.samples_per_part
            counts = masked_of(self._cache.samples_of(part)).row_count_S
            rows_S[first : first + len(counts)] = counts
        return rows_S


def _pilot_rows(samples: Views, wanted: int) -> int:
    """Return the count of rows of a pilot of about so many."""
    return int(samples.rows_S[spread(len(samples.rows_S), int(samples.rows_S.sum()), wanted)].sum())


def _reopened(cache: Cache, again: AskAgain) -> Prepared:
    """Prepare asking the teacher of a cache of masked texts again."""
    if again.images is not None:
        raise BadInput(f"--images: it means nothing to {cache.path}, a cache of masked texts. Leave it out.")
    manifest = cache.manifest
    model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
    config = load_config(model)
    check_masked(config, model)
    placement = Placement.of(again.placing, manifest.teacher.quantization)
    refuse_impossible(placement, config, model)
    if head_rows(config) < manifest.teacher.vocabulary:
        raise CacheMismatch(
            f"{model}: its head has {head_rows(config)} rows; {cache.path} names ids up to "
            f"{manifest.teacher.vocabulary - 1}. Give the teacher that made it."
        )
    samples: Any = CommittedSamples(cache)
    if again.views is not None:
        windows = _CachedWindows(cache)
        masker = masker_of(info_of(manifest).mask, manifest.teacher.vocabulary)
        samples = Views(windows, masker, again.views, windows.rows_S())
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=config,
        gives=MaskedTeacher.gives,
        batches=batches_for(manifest),
        load=partial(MaskedTeacher, model, config, manifest.teacher.dtype, again.placing.device, placement),
    )


def batches_for(manifest: Manifest) -> Batches:
    """Return how masked texts become batches of the teacher."""
    return partial(text_batches, budget=manifest.batch_tokens, pad=info_of(manifest).pad)


def text_batches(samples: list[MaskedText], budget: int, pad: int) -> Iterator[TeacherBatch]:
    """Yield batches of texts of similar length, the longest first, at most `budget` tokens with their padding."""
    for indices in _by_length(np.array([sample.length for sample in samples]), budget):
        some = [samples[index] for index in indices]
        inputs = laid([sample.input_T for sample in some], pad)
        yield TeacherBatch(
            indices=indices,
            samples=[*some],
            inputs={name: torch.from_numpy(value) for name, value in inputs.items()},
            rows_N=torch.from_numpy(places_of([each.positions_N for each in some], inputs["input_ids"].shape[1])),
            gold_N=torch.from_numpy(np.concatenate([each.gold_N for each in some])),
        )


def _by_length(lengths_S: Array, budget: int) -> list[list[int]]:
    found: list[list[int]] = []
    width = 0
    for index in np.argsort(-lengths_S, kind="stable").tolist():
        if not found or (len(found[-1]) + 1) * width > budget:
            found.append([])
            width = int(lengths_S[index])
        found[-1].append(index)
    return found


def _files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the vocabulary and the tokenizer's files, by their paths in the cache."""
    pieces = vocabulary.arrow()
    files = tokenizer_files(tokenizer)
    folder = layout.shared_name("tokenizer", b"".join(files.values()))
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return {layout.shared_name("vocabulary", pieces, ".arrow"): pieces} | named
