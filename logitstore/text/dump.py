"""Texts for a teacher: the prepared dump, and batches of texts of similar length."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.core.order import spread
from logitstore.core.progress import Progress, no_progress
from logitstore.core.types import Array
from logitstore.dump.engines.cost import show_cost
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, source_info
from logitstore.dump.teachers import is_server, open_source
from logitstore.dump.teachers.source import TeacherSource
from logitstore.dump.teachers.teacher import Batches, Teacher
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.format.data import DataInfo
from logitstore.format.manifest import Manifest
from logitstore.format.needs import GIFTS, LOGITS, called
from logitstore.format.positions import Share, share_of
from logitstore.format.presets import row_of
from logitstore.format.tap_names import FINAL, names_of
from logitstore.models.causal import check_window
from logitstore.models.load import DTYPES
from logitstore.models.placing.placement import Placement
from logitstore.models.shape import layer_count
from logitstore.models.tokens.tokenizer import cached_tokenizer, tokenizer_files
from logitstore.settings.dump import AddSettings, DataSettings, DumpSettings, PrepareSettings
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary
from logitstore.text.chats.options import ChatOptions
from logitstore.text.documents import DataSpec, specs_of
from logitstore.text.lines.shown import lines_of_texts, text_batches
from logitstore.text.positions.choose import undecided
from logitstore.text.sample import Sample
from logitstore.text.samples import Encoding, Preparing, Samples, open_samples
from logitstore.text.show import sample_lines
from logitstore.text.tokenizer import template_fingerprint, with_template

PRESET = "small"
"""The preset if the user names none."""


SAMPLES_PER_PART = 1024


class TextDump:
    """What a teacher is shown of texts; see `logitstore.dump.task.DumpTask`."""

    no_plan = None

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        if again.images is not None:
            raise BadInput(f"--images: it means nothing to {cache.path}, a cache of texts. Leave it out.")
        manifest = cache.manifest
        name = again.teacher or manifest.teacher.name
        # a server is asked as in the dump; a model or vLLM in this process needs nobody to say what serves it
        engine = manifest.teacher.engine if is_server(name) else None
        source = open_source(
            name,
            trust_remote_code=again.trust_remote_code,
            placement=Placement.of(again.placing, manifest.teacher.quantization),
            engine=again.engine.or_of(None if engine is None else engine.name),
            tokenizer=partial(cached_tokenizer, cache),
        )
        if source.vocabulary < manifest.teacher.vocabulary:
            raise CacheMismatch(
                f"{source.name}: its head has {source.vocabulary} rows; {cache.path} names ids up to "
                f"{manifest.teacher.vocabulary - 1}. Give the teacher that made it."
            )
        dtype = manifest.teacher.dtype
        if source.dtype is None and dtype not in DTYPES:
            dtype = "float32"  # an engine answered, and its format is not known
        return Prepared(
            manifest=manifest,
            samples=CommittedSamples(cache),
            config=source.pretrained,
            gives=source.gives,
            batches=batches_for(manifest),
            undecided=_undecided(manifest.text[1].share),
            load=partial(_loaded, partial(source.load, dtype, again.placing.device), manifest.packed),
        )

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        if settings.views is not None:
            raise BadInput(f"--views {settings.views}: {settings.cache} is a cache of text, which has no views.")
        refuse_set(settings, ("images", "workers"), f"{settings.cache} is a cache of text")
        if settings.hidden is None and settings.qkv is None:
            raise BadInput("add needs --hidden or --qkv: say which layers' features to add, such as --hidden 8,final.")

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        # not every configuration counts layers by this name, and only numbered layers ask for them
        layers = layer_count(config()) if hidden not in (None, FINAL) or qkv is not None else 1
        return names_of(hidden, qkv, layers)


@dataclass(frozen=True, kw_only=True)
class _Opened:
    """The data of a dump, and what they are encoded with.

    Attributes:
        specs: the sources.
        tokenizer: that of the teacher, with the template that was asked for.
        vocabulary: that of the tokenizer.
        ids: count of ids that mean something to the teacher.
        encoding: how the data are encoded.
    """

    specs: list[DataSpec]
    tokenizer: PreTrainedTokenizerBase
    vocabulary: Vocabulary
    ids: int
    encoding: Encoding

    @classmethod
    def of(cls, settings: DataSettings, source: TeacherSource) -> _Opened:
        """Raises BadInput, ModelError: the options do not go with each other, or with the teacher."""
        specs = specs_of(settings)
        check_window(source.pretrained, settings.max_length, source.name)
        tokenizer = with_template(source.tokenizer(), settings.chat_template)
        vocabulary = Vocabulary.of(tokenizer.get_vocab())
        ids = min(len(vocabulary.pieces), source.vocabulary)
        overlap = min(128, settings.max_length // 8) if settings.overlap is None else settings.overlap
        if overlap >= settings.max_length:
            raise BadInput(
                f"--overlap {overlap}: it must be smaller than --max-length, which is {settings.max_length}."
            )
        encoding = Encoding(
            max_length=settings.max_length,
            overlap=overlap,
            chats=ChatOptions(template=settings.chat_template, arguments=settings.template_arg or {}),
            vocabulary=ids,
            end_token=settings.end_token,
            positions=settings.positions,
        )
        return cls(specs=specs, tokenizer=tokenizer, vocabulary=vocabulary, ids=ids, encoding=encoding)

    def samples(self, settings: DataSettings, name: str, progress: Progress) -> Samples:
        """Open the samples. Raises ModelError: the tokenizer is another model's."""
        preparing = Preparing(
            folder=settings.prepared, workers=settings.prepare_workers, keep_tokens=settings.keep_tokens
        )
        samples = open_samples(self.specs, self.encoding, self.tokenizer, name, progress, preparing)
        if samples.highest_token >= self.ids:
            raise ModelError(
                f"{name}: its tokenizer gives token id {samples.highest_token}, its head has rows for ids below {self.ids}. "
                "The model and the tokenizer do not belong together."
            )
        return samples


def prepare_data(settings: PrepareSettings, progress: Progress = no_progress) -> dict[str, Any]:
    """Prepare the data of a dump, and nothing else; no weights are loaded.

    Returns:
        What there is then: counts, the fingerprint of the data, the seconds that it took, the folder and its bytes.

    Raises:
        BadInput, ModelError, StorageError: see `logitstore.text.samples.open_samples`.
    """
    began = time.monotonic()
    source = open_source(settings.teacher, trust_remote_code=settings.trust_remote_code, engine=settings)
    samples = _Opened.of(settings, source).samples(settings, source.name, progress)
    folder = samples.folder
    return {
        "documents": samples.documents,
        "skipped": samples.skipped,
        "samples": len(samples),
        "tokens": samples.tokens,
        "rows": samples.rows,
        "fingerprint": samples.fingerprint,
        "seconds": time.monotonic() - began,
        "folder": str(folder.path),
        "bytes": folder.bytes(),
    }


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of texts."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    preset = settings.preset or PRESET
    source = open_source(
        settings.teacher,
        trust_remote_code=settings.trust_remote_code,
        placement=Placement.of(settings, settings.quantization),
        engine=settings,
    )
    if source.dtype is not None:
        refuse_set(settings, ("device", "dtype", "quantization"), f"the engine of {source.name} decides")
    opened = _Opened.of(settings, source)
    specs, tokenizer, vocabulary, real = opened.specs, opened.tokenizer, opened.vocabulary, opened.ids
    chats, overlap = opened.encoding.chats, opened.encoding.overlap
    row = row_of(preset, settings.choices(), real, source.width)
    check_teacher(settings, row, source.gives)
    per_part = settings.samples_per_part or SAMPLES_PER_PART
    largest_part = ((1 << 31) - 1) // settings.max_length
    if per_part > largest_part:
        raise BadInput(
            f"--samples-per-part {per_part}: a part may hold up to {largest_part} samples "
            f"of {settings.max_length} tokens. Give less."
        )
    share = _share(settings, source)
    samples = opened.samples(settings, source.name, progress)
    show_cost(settings, samples.tokens, progress)
    manifest = Manifest(
        teacher=source_info(settings, source, real),
        tokenizer=vocabulary.info(),
        data=DataInfo(
            source=", ".join(each.source for each in specs),
            split=", ".join(sorted({each.split for each in specs})),
            kind="chat" if samples.chat or any(form.is_chat for form in samples.forms) else "text",
            column=samples.column,
            domain_column=settings.domain_column,
            fingerprint=samples.fingerprint,
            documents=samples.documents,
            skipped=samples.skipped,
            max_length=settings.max_length,
            overlap=overlap,
            chat_template=None if chats.template is None else template_fingerprint(str(tokenizer.chat_template)),
            template_args=settings.template_arg or None,
            sources=samples.sources if settings.data != specs[0].source else None,
            positions=None if share is None else str(share),
            scores=samples.scores,
        ),
        samples=len(samples),
        rows=samples.rows,
        tokens=samples.tokens,
        samples_per_part=per_part,
        batch_tokens=settings.batch_tokens,
        packed=settings.packed,
        **row_entries(settings, preset, row, lambda: _pilot_rows(samples, settings.pilot_rows), source.gives),
    )
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=source.pretrained,
        gives=source.gives,
        batches=batches_for(manifest),
        largest_part=largest_part,
        files=partial(shared_files, tokenizer, vocabulary),
        show=partial(_shown, samples, tokenizer),
        undecided=_undecided(share),
        load=partial(_loaded, partial(source.load, settings.dtype, settings.device), settings.packed),
    )


def _share(settings: DumpSettings, source: TeacherSource) -> Share | None:
    """Return the share of the positions that have a row; None for all that the data ask about.

    Raises:
        BadInput: the teacher does not say what the choice needs.
    """
    share = share_of(settings.positions)
    if share is not None and share.asks_teacher and LOGITS not in source.gives:
        raise BadInput(
            f"--positions {share} needs {GIFTS[LOGITS]}; {source.name} gives {called(source.gives)}. "
            f"Give --positions {replace(share, by='random')}."
        )
    return share


def _undecided(share: Share | None) -> Callable[[list[Sample]], list[Sample]] | None:
    """Return what takes the teacher's choice back from samples of a cache; None where the teacher chooses nothing."""
    return (lambda samples: [*map(undecided, samples)]) if share is not None and share.asks_teacher else None


def _shown(samples: Samples, tokenizer: PreTrainedTokenizerBase, number: int) -> list[str]:
    """Return a sample as the teacher will see it, in lines for people."""
    sample = samples[number]
    return sample_lines(number, sample, samples.row_of(sample.document), partial(_decoded, tokenizer))


def _decoded(tokenizer: PreTrainedTokenizerBase, tokens_T: Array) -> str:
    """Return the text of some tokens, special ones included."""
    return str(tokenizer.decode(tokens_T.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _pilot_rows(samples: Samples, wanted: int) -> int:
    """Return the count of rows of a pilot of about so many."""
    return int(samples.rows_S[spread(len(samples), samples.rows, wanted)].sum())


def shared_files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the vocabulary and the tokenizer's files, by their paths in the cache."""
    pieces = vocabulary.arrow()
    files = tokenizer_files(tokenizer)
    folder = layout.shared_name("tokenizer", b"".join(files.values()))
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return {layout.shared_name("vocabulary", pieces, ".arrow"): pieces} | named


def batches_for(manifest: Manifest) -> Batches:
    """Return how samples become the batches that a plan says."""
    return partial(lines_of_texts if manifest.packed else text_batches, budget=manifest.batch_tokens)


def _loaded(load: Callable[[], Teacher], packed: bool) -> Teacher:
    """Load a teacher. Raises ModelError: it cannot be shown packed lines, and is to be."""
    with ExitStack() as stack:
        teacher = load()
        stack.callback(teacher.close)
        if packed:
            teacher.check_packed()
        stack.pop_all()
    return teacher
