"""Texts for a teacher that turns them into vectors: the prepared dump, and the same where the teacher is asked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.classification.dump import batches_for, check_tokens, token_files, told_cut
from logitstore.classification.encode import Encoder, length_for, padding_of
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import ModelRef
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.text_encoder import TextEncoder
from logitstore.embedding.data import embedded_texts
from logitstore.embedding.sample import info_of
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.format.tap_names import FINAL
from logitstore.format.tasks.texts import EmbeddedInfo
from logitstore.models.load import load_config, load_tokenizer
from logitstore.models.placing.placement import Placement, refuse_impossible
from logitstore.models.pooling.described import Pooling, read_pooling
from logitstore.models.pooling.encoder import refuse_no_encoder
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.row import RowChoices
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary

SAMPLES_PER_PART = 8192

PRESET = "scores"
"""The preset that keeps no distribution."""


class EmbeddedDump:
    """What a teacher is shown of texts with vectors; see `logitstore.dump.task.DumpTask`."""

    no_plan = "it measures teachers that predict tokens. `dump --dry-run` says what a dump of vectors costs"

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        self.taps(lambda: load_config(model_of(settings.teacher)), settings.hidden, settings.qkv)
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        return _reopened(cache, again)

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        if settings.views is not None:
            raise BadInput(f"--views {settings.views}: {settings.cache} is a cache of texts, which have no views.")
        refuse_set(settings, ("images", "workers"), f"{settings.cache} is a cache of texts")
        self.taps(lambda: load_config(model_of(cache.manifest.teacher.name)), settings.hidden, settings.qkv)

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        if hidden not in (None, FINAL) or qkv is not None:
            option = f"--hidden {hidden}" if hidden not in (None, FINAL) else f"--qkv {qkv}"
            raise BadInput(f"{option}: of encoders only the vectors themselves are kept. Leave it out.")
        return [FINAL]


def pooling_of(model: ModelRef, config: PretrainedConfig) -> Pooling:
    """Return how a model pools: as its folder says, else the mean of an encoder and the last token of a decoder.

    Raises:
        ModelError: it has modules that are not known here.
    """
    described = read_pooling(model.name)
    if described is not None:
        return described[0]
    kept = getattr(config, "pooling", None)
    if kept is not None:
        return Pooling.of(kept)
    is_decoder = (config.architectures or [""])[0].endswith("ForCausalLM") or getattr(config, "is_decoder", False)
    return Pooling(way="last" if is_decoder else "mean", normalised=False)


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of vectors. Options come first, then the data."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    refuse_set(
        settings,
        [name for name in RowChoices.model_fields if name != "layout" and getattr(settings, name) != PRESET],
        "a row of this task is a vector; --tap-codec says how it is stored",
    )
    model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
    config = load_config(model)
    refuse_no_encoder(config, model)
    placement = Placement.of(settings, settings.quantization)
    refuse_impossible(placement, config, model)
    pooling = pooling_of(model, config)
    if settings.pooling is not None:
        pooling = replace(pooling, way=settings.pooling)
    if settings.normalise is not None:
        pooling = replace(pooling, normalised=settings.normalise)
    row = row_of(PRESET, {"layout": settings.layout}, 1, None)
    check_teacher(settings, row, TextEncoder.gives)
    tokenizer = load_tokenizer(model)
    encode = Encoder(tokenizer, _length(settings, config, model, pooling, tokenizer))
    config.pooling = replace(pooling, max_length=encode.max_length).plain()
    samples, told = embedded_texts(settings, encode, progress)
    vocabulary = Vocabulary.of(tokenizer.get_vocab())
    check_tokens(samples, config, model)
    ways = f"the teacher's vectors are pooled by {pooling.way}{' and have length 1' if pooling.normalised else ''}"
    for stage, note in (("data", str(told)), ("vectors", ways), ("note", told_cut(samples, encode.max_length))):
        if note:
            progress(Step(stage=stage, done=1, total=1, note=note))
    padding = padding_of(tokenizer)
    manifest = Manifest(
        task="embedding",
        teacher=teacher_info(settings, config, 1, pooling.width(int(config.get_text_config().hidden_size))),
        data=EmbeddedInfo(
            source=settings.source,
            split=settings.split,
            kind="embedded",
            column=told.column,
            pair_column=told.pair_column,
            score_column=told.score_column,
            limit=settings.limit,
            fingerprint=samples.fingerprint(),
            pooling=pooling.way,
            normalised=pooling.normalised,
            tokenizer=vocabulary.info(),
            encoded=samples.encoded(),
            max_length=encode.max_length,
            cut=samples.cut,
            token_types=samples.types is not None,
            pad=padding.token,
            padding_side="left" if padding.side == "left" else "right",
            texts=settings.texts,
        ),
        samples=len(samples),
        rows=len(samples),
        tokens=len(samples.tokens),
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=settings.batch_tokens,
        **row_entries(settings, PRESET, row, lambda: 0),
    )
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=config,
        gives=TextEncoder.gives,
        batches=batches_for(manifest, config),
        largest_part=((1 << 31) - 1) // encode.max_length,
        files=partial(_files, tokenizer, vocabulary),
        load=partial(TextEncoder, model, config, settings.dtype, settings.device, pooling, placement),
    )


def _length(
    settings: DumpSettings,
    config: PretrainedConfig,
    model: ModelRef,
    pooling: Pooling,
    tokenizer: PreTrainedTokenizerBase,
) -> int:
    """Return the most tokens of a text: by default what the folder or the tokenizer says, as far as there are positions."""
    is_default = settings.max_length == DumpSettings.model_fields["max_length"].default
    longest = length_for(settings.max_length, is_default, config, model)
    return min(longest, pooling.max_length or longest, int(tokenizer.model_max_length)) if is_default else longest


def _reopened(cache: Cache, again: AskAgain) -> Prepared:
    """Prepare asking the teacher of a cache of vectors again."""
    if again.images is not None:
        raise BadInput(f"--images: it means nothing to {cache.path}, a cache of texts with vectors. Leave it out.")
    manifest, data = cache.manifest, info_of(cache.manifest)
    model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
    config = load_config(model)
    refuse_no_encoder(config, model)
    placement = Placement.of(again.placing, manifest.teacher.quantization)
    refuse_impossible(placement, config, model)
    pooling = replace(pooling_of(model, config), way=data.pooling, normalised=data.normalised)
    config.pooling = replace(pooling, max_length=data.max_length).plain()
    return Prepared(
        manifest=manifest,
        samples=CommittedSamples(cache),
        config=config,
        gives=TextEncoder.gives,
        batches=batches_for(manifest, config),
        load=partial(TextEncoder, model, config, manifest.teacher.dtype, again.placing.device, pooling, placement),
    )


def _files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the shared files by path: the one thing that a row is about, and what is known of the tokens."""
    content = Vocabulary(pieces=["vector"]).arrow()
    return {layout.shared_name("vocabulary", content, ".arrow"): content} | token_files(tokenizer, vocabulary)
