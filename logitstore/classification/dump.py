"""Texts for a teacher that classifies them: the prepared dump, and the same for a cache whose teacher is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import xxhash
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.classification.data import labelled_texts
from logitstore.classification.encode import EncodedTexts, Encoder, length_for, padding_of, takes_types
from logitstore.classification.sample import ClassifiedText, Padding, encoded_info_of, info_of
from logitstore.classification.show import PIECES
from logitstore.core.order import spread
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.files.class_names import labels_for
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, check_teacher, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.classifier import features_asked
from logitstore.dump.teachers.teacher import Batches, TeacherBatch
from logitstore.dump.teachers.text_classifier import TextClassifier
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.format.tasks.texts import ClassifiedInfo
from logitstore.models.load import load_config, load_tokenizer
from logitstore.models.placing.placement import Placement, refuse_impossible
from logitstore.models.shape import OF_TEXTS, head_rows, refuse_no_softmax, shape_of
from logitstore.models.tokens.tokenizer import tokenizer_files
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.tasks import refuse_other_tasks, refuse_set
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary, read_pieces

FEW_CLASSES = 16
"""The count that preset topk lists. With more classes, preset small is smaller and closer to the teacher."""

SAMPLES_PER_PART = 8192


class ClassifiedDump:
    """What a teacher is shown of classified texts; see `logitstore.dump.task.DumpTask`."""

    no_plan = "it measures teachers that predict tokens. `dump --dry-run` says what a dump of classified texts costs"

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        self.taps(lambda: load_config(model_of(settings.teacher)), settings.hidden, settings.qkv)
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        return _reopened(cache, again)

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        if settings.views is not None:
            raise BadInput(f"--views {settings.views}: {settings.cache} is a cache of texts, which have no views.")
        refuse_set(settings, ("images", "workers"), f"{settings.cache} is a cache of classified texts")
        if settings.hidden is None and settings.qkv is None:
            raise BadInput(f"{settings.cache}: a cache of classified texts takes --hidden and --qkv. Give one of them.")

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        return features_asked(config, hidden, qkv)


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of classified texts. Options come first, then the data."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(settings, settings.quantization)
    refuse_impossible(placement, config, model)
    names = classes_of(config, model)
    width = shape_of(config)["hidden_size"]
    preset = settings.preset or ("topk" if len(names) <= FEW_CLASSES or width is None else "small")
    row = row_of(preset, settings.choices(), len(names), width)
    check_teacher(settings, row, TextClassifier.gives)
    is_default = settings.max_length == DumpSettings.model_fields["max_length"].default
    encode = Encoder(load_tokenizer(model), length_for(settings.max_length, is_default, config, model))
    texts = labelled_texts(settings)
    labels, matched = labels_for(texts.labels, texts.names, names, str(model))
    samples = EncodedTexts.of(texts, labels, encode, settings.source, settings.texts, progress)
    vocabulary = Vocabulary.of(encode.tokenizer.get_vocab())
    check_tokens(samples, config, model)
    for stage, note in (("data", texts.told), ("labels", matched), ("note", told_cut(samples, encode.max_length))):
        if note:
            progress(Step(stage=stage, done=1, total=1, note=note))
    padding = padding_of(encode.tokenizer)
    per_part = settings.samples_per_part or SAMPLES_PER_PART
    manifest = Manifest(
        task="text-classification",
        teacher=teacher_info(settings, config, len(names), width),
        data=ClassifiedInfo(
            source=settings.source,
            split=settings.split,
            kind="classified",
            column=texts.column,
            pair_column=texts.pair_column,
            label_column=texts.label_column,
            limit=settings.limit,
            fingerprint=samples.fingerprint(),
            classes=xxhash.xxh3_128_hexdigest("\0".join(names).encode()),
            unlabelled=int((labels < 0).sum()),
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
        samples_per_part=per_part,
        batch_tokens=settings.batch_tokens,
        **row_entries(settings, preset, row, lambda: len(spread(len(samples), len(samples), settings.pilot_rows))),
    )
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=config,
        gives=TextClassifier.gives,
        batches=batches_for(manifest, config),
        largest_part=((1 << 31) - 1) // encode.max_length,
        places=manifest.tokens / manifest.rows,
        files=partial(_files, encode.tokenizer, vocabulary, names),
        load=partial(TextClassifier, model, config, settings.dtype, settings.device, padding.token, placement),
    )


def _reopened(cache: Cache, again: AskAgain) -> Prepared:
    """Prepare asking the teacher of a cache of classified texts again."""
    if again.images is not None:
        raise BadInput(f"--images: it means nothing to {cache.path}, a cache of classified texts. Leave it out.")
    manifest = cache.manifest
    model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(again.placing, manifest.teacher.quantization)
    refuse_impossible(placement, config, model)
    if classes_of(config, model) != [str(name) for name in read_pieces(cache).to_pylist()]:
        raise CacheMismatch(f"{model}: it does not have the classes of {cache.path}. Give the teacher that made it.")
    pad = info_of(manifest).pad
    return Prepared(
        manifest=manifest,
        samples=CommittedSamples(cache),
        config=config,
        gives=TextClassifier.gives,
        batches=batches_for(manifest, config),
        load=partial(TextClassifier, model, config, manifest.teacher.dtype, again.placing.device, pad, placement),
    )


def classes_of(config: PretrainedConfig, who: object) -> list[str]:
    """Return the names of a text classifier's classes, in the order of its logits.

    Raises:
        ModelError: it is no text classifier, or gives no softmax over classes.
    """
    architecture = (config.architectures or [config.model_type])[0]
    if not architecture.endswith(OF_TEXTS):
        raise ModelError(f"{who}: {architecture} is not a text classifier. Give one as the teacher.")
    refuse_no_softmax(config, who)
    return [str(config.id2label[number]) for number in range(config.num_labels)]


def check_tokens(samples: EncodedTexts, config: PretrainedConfig, who: object) -> None:
    """Refuse a tokenizer that is another model's. Raises ModelError."""
    highest = int(samples.tokens.max())
    if highest >= head_rows(config):
        raise ModelError(
            f"{who}: its tokenizer gives token id {highest}, and it takes ids below {head_rows(config)}. The model and the "
            "tokenizer do not belong together."
        )


def told_cut(samples: EncodedTexts, max_length: int) -> str:
    """Say how many texts are cut, and how long the longest one is; nothing where none is."""
    if not samples.cut:
        return ""
    which = "1 text has" if samples.cut == 1 else f"{samples.cut:,} of {len(samples):,} texts have"
    return f"{which} more than {max_length} tokens, the longest {samples.longest:,}: the teacher sees their beginning"


def batches_for(manifest: Manifest, config: PretrainedConfig) -> Batches:
    """Return how texts become batches of the teacher."""
    padding = Padding.of(encoded_info_of(manifest))
    return partial(text_batches, budget=manifest.batch_tokens, padding=padding, config=config)


def text_batches(
    samples: list[ClassifiedText], budget: int, padding: Padding, config: PretrainedConfig
) -> Iterator[TeacherBatch]:
    """Yield batches of texts of similar length, the longest first, at most `budget` tokens with their padding."""
    lengths = np.array([sample.length for sample in samples])
    for indices in by_length(lengths, budget):
        some = [samples[index] for index in indices]
        types: list[Array] | None = [each.types_T for each in some if each.types_T is not None]
        if not types or not takes_types(config, int(max(each.max(initial=0) for each in types))):
            types = None
        laid = padding.laid([sample.tokens_T for sample in some], types)
        yield TeacherBatch(
            indices=indices,
            samples=[*some],
            inputs={name: torch.from_numpy(value) for name, value in laid.items()},
            rows_N=torch.arange(len(some)),
            gold_N=torch.tensor([sample.label for sample in some]),
        )


def by_length(lengths_S: Array, budget: int) -> list[list[int]]:
    """Split texts into batches of similar length, the longest first: as many as keep count x longest length within `budget`."""
    found: list[list[int]] = []
    width = 0
    for index in np.argsort(-lengths_S, kind="stable").tolist():
        if not found or (len(found[-1]) + 1) * width > budget:
            found.append([])
            width = int(lengths_S[index])
        found[-1].append(index)
    return found


def _files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, names: list[str]) -> dict[str, bytes]:
    """Return the shared files by path: names of the classes, pieces of the tokenizer, and the tokenizer."""
    classes = Vocabulary(pieces=names).arrow()
    return {layout.shared_name("vocabulary", classes, ".arrow"): classes} | token_files(tokenizer, vocabulary)


def token_files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the shared files about tokens by path: the pieces of the tokenizer, and the tokenizer."""
    pieces = vocabulary.arrow()
    files = tokenizer_files(tokenizer)
    folder = layout.shared_name("tokenizer", b"".join(files.values()))
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return {layout.shared_name(PIECES, pieces, ".arrow"): pieces} | named
