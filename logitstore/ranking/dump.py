"""Queries with documents for a cross-encoder: the prepared dump, and the same for a cache whose teacher is asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from logitstore.classification.encode import Encoder, length_for, padding_of, takes_types
from logitstore.classification.sample import Padding
from logitstore.classification.show import PIECES
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.task import AskAgain, CommittedSamples, Prepared, row_entries, teacher_info
from logitstore.dump.teachers import model_of
from logitstore.dump.teachers.teacher import Batches, TeacherBatch
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.format.data import OtherData
from logitstore.format.manifest import Manifest
from logitstore.format.row import CodecInfo, RowInfo, SparsifierInfo, TailInfo
from logitstore.models.load import load_config, load_tokenizer
from logitstore.models.placing.placement import Placement, refuse_impossible
from logitstore.models.shape import head_rows, shape_of
from logitstore.models.tokens.tokenizer import tokenizer_files
from logitstore.ranking.data import ranked_queries
from logitstore.ranking.encode import EncodedQueries
from logitstore.ranking.models import refuse_no_score
from logitstore.ranking.sample import RankedInfo, RankedQuery, info_of
from logitstore.ranking.teacher import CrossEncoder
from logitstore.settings.dump import AddSettings, DumpSettings
from logitstore.settings.tasks import refuse_other_tasks
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.vocabulary import Vocabulary

SAMPLES_PER_PART = 1024
"""Queries of a part, where nobody says; each has several documents."""


class RankedDump:
    """What a teacher is shown of queries; see `logitstore.dump.task.DumpTask`."""

    no_plan = "it measures teachers that predict tokens. `dump --dry-run` says what a dump of queries costs"

    def prepare(self, settings: DumpSettings, progress: Progress = no_progress) -> Prepared:
        self.taps(lambda: load_config(model_of(settings.teacher)), settings.hidden, settings.qkv)
        return _prepared(settings, progress)

    def reopen(self, cache: Cache, again: AskAgain, progress: Progress = no_progress) -> Prepared:
        return _reopened(cache, again)

    def check_add(self, settings: AddSettings, cache: Cache) -> None:
        raise BadInput(f"{settings.cache}: a cache of queries keeps scores alone, and nothing can be added to it.")

    def taps(self, config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
        option = f"--hidden {hidden}" if hidden is not None else f"--qkv {qkv}"
        if hidden is not None or qkv is not None:
            raise BadInput(f"{option}: of cross-encoders only the score is kept. Leave it out.")
        return []


def row_of_scores(settings: DumpSettings) -> RowInfo:
    """Return what a row holds: a number, in the layout that is asked for. Raises BadInput: more is asked for."""
    chosen = {name: value for name, value in settings.choices().items() if name != "layout" and value is not None}
    for name, value in ({"preset": settings.preset} | chosen).items():
        if value is not None:
            flag = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            raise BadInput(f"{flag} {value}: a row of --task ranking is one score, kept as it is. Leave it out.")
    return RowInfo(
        sparsifier=SparsifierInfo(name="score", k=0),
        tail=TailInfo(shape="none"),
        codec=CodecInfo(layout="archive" if settings.choices().get("layout") == "archive" else "mapped"),
        vocabulary=1,
    )


def _prepared(settings: DumpSettings, progress: Progress) -> Prepared:
    """Prepare a dump of queries. Options come first, then the data."""
    refuse_other_tasks(settings, "dump", settings.task, f"--task {settings.task}")
    row = row_of_scores(settings)
    model = model_of(settings.teacher, trust_remote_code=settings.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(settings, settings.quantization)
    refuse_impossible(placement, config, model)
    refuse_no_score(config, model)
    is_default = settings.max_length == DumpSettings.model_fields["max_length"].default
    encode = Encoder(load_tokenizer(model), length_for(settings.max_length, is_default, config, model))
    columns, queries = ranked_queries(settings)
    samples = EncodedQueries.of(queries, encode, settings.texts, progress)
    vocabulary = Vocabulary.of(encode.tokenizer.get_vocab())
    _check_tokens(samples, config, model)
    for stage, note in (("data", columns.told), ("note", _cut(samples, encode.max_length))):
        if note:
            progress(Step(stage=stage, done=1, total=1, note=note))
    padding = padding_of(encode.tokenizer)
    info = RankedInfo(
        source=settings.source,
        split=settings.split,
        kind="ranked",
        form=columns.form,
        column=columns.query,
        document_column=columns.document,
        negative_columns=columns.negatives,
        label_column=columns.label,
        limit=settings.limit,
        fingerprint=samples.fingerprint(),
        documents=samples.pairs,
        unlabelled=sum(max(each.labels) < 0 for each in queries),
        tokenizer=vocabulary.info(),
        encoded=samples.encoded(),
        max_length=encode.max_length,
        cut=samples.cut,
        token_types=samples.types is not None,
        pad=padding.token,
        padding_side="left" if padding.side == "left" else "right",
        texts=settings.texts,
    )
    manifest = Manifest(
        task="ranking",
        teacher=teacher_info(settings, config, 1, shape_of(config)["hidden_size"]),
        data=OtherData(**info.model_dump(mode="json")),
        samples=len(samples),
        rows=samples.pairs,
        tokens=len(samples.tokens),
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=settings.batch_tokens,
        **row_entries(settings, None, row, lambda: 0),
    )
    return Prepared(
        manifest=manifest,
        samples=samples,
        config=config,
        gives=CrossEncoder.gives,
        batches=batches_for(manifest, config),
        largest_part=max(((1 << 31) - 1) // (encode.max_length * max(len(each.documents) for each in queries)), 1),
        files=partial(_files, encode.tokenizer, vocabulary),
        load=partial(
            CrossEncoder,
            model,
            config,
            settings.dtype,
            settings.device,
            padding.token,
            settings.batch_tokens,
            padding.side,
            placement,
        ),
    )


def _reopened(cache: Cache, again: AskAgain) -> Prepared:
    """Prepare asking the teacher of a cache of queries again."""
    if again.images is not None:
        raise BadInput(f"--images: it means nothing to {cache.path}, a cache of queries. Leave it out.")
    manifest, data = cache.manifest, info_of(cache.manifest)
    model = model_of(again.teacher or manifest.teacher.name, trust_remote_code=again.trust_remote_code)
    config = load_config(model)
    placement = Placement.of(again.placing, manifest.teacher.quantization)
    refuse_impossible(placement, config, model)
    try:
        refuse_no_score(config, model)
    except ModelError as error:
        raise CacheMismatch(f"{error} It is not the teacher of {cache.path}.") from error
    return Prepared(
        manifest=manifest,
        samples=CommittedSamples(cache),
        config=config,
        gives=CrossEncoder.gives,
        batches=batches_for(manifest, config),
        load=partial(
            CrossEncoder,
            model,
            config,
            manifest.teacher.dtype,
            again.placing.device,
            data.pad,
            manifest.batch_tokens,
            data.padding_side,
            placement,
        ),
    )


def _check_tokens(samples: EncodedQueries, config: PretrainedConfig, who: object) -> None:
    """Refuse a tokenizer that is another model's. Raises ModelError."""
    highest = int(samples.tokens.max())
    if highest >= head_rows(config):
        raise ModelError(
            f"{who}: its tokenizer gives token id {highest}, and it takes ids below {head_rows(config)}. The model and the "
            "tokenizer do not belong together."
        )


def _cut(samples: EncodedQueries, max_length: int) -> str:
    if not samples.cut:
        return ""
    which = "1 pair has" if samples.cut == 1 else f"{samples.cut:,} of {samples.pairs:,} pairs have"
    return f"{which} more than {max_length} tokens, the longest {samples.longest:,}: the longer text is cut first"


def batches_for(manifest: Manifest, config: PretrainedConfig) -> Batches:
    """Return how queries become batches of the teacher."""
    data = info_of(manifest)
    padding = Padding(token=data.pad, side=data.padding_side)
    return partial(query_batches, budget=manifest.batch_tokens, padding=padding, config=config)


def query_batches(
    samples: list[RankedQuery], budget: int, padding: Padding, config: PretrainedConfig
) -> Iterator[TeacherBatch]:
    """Yield batches of whole queries in their order, about `budget` tokens of pairs each, and at least one query.

    The teacher is shown the pairs of a batch a few at a time.
    """
    first = total = 0
    for place, sample in enumerate(samples):
        if place > first and total + sample.length > budget:
            yield _batch(samples, range(first, place), padding, config)
            first, total = place, 0
        total += sample.length
    if samples:
        yield _batch(samples, range(first, len(samples)), padding, config)


def _batch(samples: list[RankedQuery], indices: range, padding: Padding, config: PretrainedConfig) -> TeacherBatch:
    some = [samples[index] for index in indices]
    tokens: list[Array] = [pair for each in some for pair in each.tokens]
    types: list[Array] | None = [pair for each in some for pair in each.types or ()]
    if not types or not takes_types(config, int(max(each.max(initial=0) for each in types))):
        types = None
    return TeacherBatch(
        indices=list(indices),
        samples=[*some],
        inputs={name: torch.from_numpy(value) for name, value in padding.laid(tokens, types).items()},
        rows_N=torch.arange(len(tokens)),
        gold_N=torch.cat([torch.from_numpy(each.gold_N) for each in some]),
    )


def _files(tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> dict[str, bytes]:
    """Return the shared files by path: the name of the one output, pieces of the tokenizer, and the tokenizer."""
    outputs, pieces = Vocabulary(pieces=["score"]).arrow(), vocabulary.arrow()
    files = tokenizer_files(tokenizer)
    folder = layout.shared_name("tokenizer", b"".join(files.values()))
    named = {f"{folder}/{name}": content for name, content in files.items()}
    return {
        layout.shared_name("vocabulary", outputs, ".arrow"): outputs,
        layout.shared_name(PIECES, pieces, ".arrow"): pieces,
    } | named
