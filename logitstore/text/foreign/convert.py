"""`convert`: a cache that other software made becomes one of ours. Reads top to bottom.

source -> its format -> index of its samples -> plan -> cache.json, shared/ -> part by part: lists -> rows -> codec -> part
writer
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.registry import resolve
from logitstore.core.types import ModelRef, bytes_of
from logitstore.dump.begin import begin, samples_per_part, target_folder
from logitstore.dump.parts import finished
from logitstore.dump.task import created_by
from logitstore.errors import BadInput, ModelError
from logitstore.format.data import DataInfo, ImportedInfo, TeacherInfo
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.models.load import load_tokenizer
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.settings.foreign.formats import OPTIONS, format_of
from logitstore.settings.tasks import refuse_set
from logitstore.store.cache import Cache
from logitstore.store.storage import Storage, open_storage
from logitstore.store.vocabulary import Vocabulary
from logitstore.store.writer import PartTaken
from logitstore.text.dump import SAMPLES_PER_PART, shared_files
from logitstore.text.foreign.block import Foreign
from logitstore.text.foreign.features.add import add_features
from logitstore.text.foreign.index import Index, fingerprint_of
from logitstore.text.foreign.lists import Changes, ListReader
from logitstore.text.foreign.part import ListPart
from logitstore.text.foreign.recognise import recognised
from logitstore.text.foreign.walk import Walk
from logitstore.text.foreign.whole import fitted


def convert(settings: ConvertSettings, progress: Progress = no_progress) -> Cache:
    """Write the cache that `settings` describe, or those of its parts that are missing.

    Raises:
        BadInput: a source or options that cannot be used.
        ModelError: the tokenizer cannot be loaded, or the source has ids that it does not give.
        CacheMismatch: `settings.out` is a cache of another plan.
        StorageError: the disk is full or the folder cannot be written; committed parts stay.
    """
    name = settings.format or recognised(settings.source, settings.split)
    known = format_of(name)
    refuse_set(settings, [option for option in OPTIONS if option not in known.options], f"it means nothing to {name}")
    if known.has_features:
        return add_features(settings, name, progress)
    if settings.tokenizer is None:
        raise BadInput("--tokenizer: give the tokenizer of the teacher. Its ids are those of the source.")
    with target_folder(settings.out):
        source: Foreign = resolve(known.opens)(settings)
        tokenizer = load_tokenizer(ModelRef.parse(settings.tokenizer, trust_remote_code=settings.trust_remote_code))
        vocabulary = Vocabulary.of(tokenizer.get_vocab())
        index = Index.of(source, str(settings.source), progress)
        wanted = _manifest(settings, source, index, vocabulary)
        out = open_storage(settings.out)
        fit = partial(fitted, wanted, source, index)
        manifest = begin(out, wanted, partial(shared_files, tokenizer, vocabulary), fit)
    changes = _write(out, manifest, source, index, str(settings.source), progress)
    for note in _notes(changes):
        progress(Step(stage="note", done=1, total=1, note=note))
    return finished(settings.out)


def _manifest(settings: ConvertSettings, source: Foreign, index: Index, vocabulary: Vocabulary) -> Manifest:
    """Return the plan of the cache to be, but for the shared files.

    Raises:
        BadInput: options that do not go together, or with the source.
        ModelError: the source has token ids that the tokenizer does not give.
    """
    ids = len(vocabulary.pieces) if source.vocabulary is None else min(len(vocabulary.pieces), source.vocabulary)
    if index.highest >= ids:
        raise ModelError(
            f"{settings.source}: it has the token id {index.highest}, and {settings.tokenizer} gives ids below {ids}. Give the "
            "tokenizer of its teacher."
        )
    if source.mass == "unknown" and settings.tail == "uniform":
        raise BadInput(
            f"--tail uniform: {settings.source} does not tell the mass outside of its lists. Give --tail none, or leave it out."
        )
    if source.pilot is None and settings.tail == "prior":
        raise BadInput(
            f"--tail prior: {settings.source} has lists, which do not tell how the mass outside of them is spread. Leave it "
            "out."
        )
    k = min(settings.k or source.entries, ids)
    if settings.k is not None and settings.k > source.entries:
        raise BadInput(
            f"-k {settings.k}: the lists of {settings.source} have {source.entries} entries. Give at most that many."
        )
    chosen = {
        "k": k,
        "tail": settings.tail or ("uniform" if source.mass == "known" else "none"),
        "logprobs": settings.logprobs,
        "layout": settings.layout,
    }
    row = row_of("topk", chosen, ids, None)
    data = DataInfo(
        source=str(settings.source),
        split=settings.split,
        kind="chat" if source.is_partial else "text",
        column=source.column,
        fingerprint=index.fingerprint,
        documents=index.documents,
        skipped=index.documents - len(index),
        max_length=max(int(index.lengths_S.max()), 2),
        overlap=0,
    )
    manifest = Manifest(
        created_by=created_by(),
        imported=ImportedInfo(format=source.format, gold=source.gold, mass=source.mass),
        teacher=TeacherInfo(
            name=settings.teacher_name or settings.source.name,
            fingerprint=fingerprint_of(source),
            dtype="as served",
            vocabulary=ids,
            architecture="unknown",
            config={},
        ),
        tokenizer=vocabulary.info(),
        data=data,
        samples=len(index),
        rows=int(index.rows_S.sum()),
        tokens=int(index.lengths_S.sum()),
        samples_per_part=settings.samples_per_part or SAMPLES_PER_PART,
        batch_tokens=1,
        sparsifier=row.sparsifier,
        tail=row.tail,
        codec=row.codec,
        fields=row.fields,
        shared={},
    )
    largest = ((1 << 31) - 1) // data.max_length
    if settings.samples_per_part is not None:
        refuse_set(settings, ("part_bytes",), f"--samples-per-part {settings.samples_per_part} decides")
        return manifest.model_copy(update={"samples_per_part": min(settings.samples_per_part, largest)})
    wanted = None if settings.part_bytes is None else bytes_of(settings.part_bytes)
    return manifest.model_copy(update={"samples_per_part": samples_per_part(manifest, 0, wanted, largest)})


def _write(out: Storage, manifest: Manifest, source: Foreign, index: Index, name: str, progress: Progress) -> Changes:
    """Write the missing parts; return what was changed of their lists."""
    done = set(out.list_parts())
    missing = [part for part in range(manifest.parts) if part not in done]
    changes = Changes()
    reader = ListReader(
        k=manifest.sparsifier.k,
        vocabulary=manifest.teacher.vocabulary,
        head=max(source.vocabulary or 0, manifest.teacher.vocabulary),
        knows_mass=source.mass == "known",
        knows_gold=source.gold == "all",
        changes=changes,
    )
    total = sum(int(index.rows_S[manifest.span(part)].sum()) for part in missing)
    walk, written = Walk(index, source, name), 0
    for part in missing:
        with suppress(PartTaken), ListPart(out, manifest, part, index, reader, name) as writer:
            for number, block in walk.over(manifest.span(part)):
                written += writer.write(number, block)
                progress(Step(stage="convert", done=written, total=total, part=part))
            writer.commit()
    return changes


def _notes(changes: Changes) -> Iterator[str]:
    """Yield what people should know about what was changed."""
    if changes.scaled:
        yield (
            f"{changes.scaled:,} of {changes.rows:,} rows summed to more than 1, to {changes.most:.4f} at most, as "
            "rounded values do; "
            "they were scaled to 1"
        )
    if changes.padding:
        yield f"{changes.padding:,} entries had ids that the tokenizer does not give, and were left out"
    if changes.lists_other_tokens:
        yield (
            f"the token that follows is listed in {changes.golds / changes.rows:.1%} of {changes.rows:,} rows, and the lists "
            f"give it {changes.mass / changes.rows:.1%}: are the rows about another token (--rows-about), or the ids of "
            "another tokenizer?"
        )
    if changes.unlikely:
        yield (
            f"{changes.unlikely:,} of {changes.rows:,} rows leave out more probability than unlisted tokens can have: are the "
            "values logits, or of another base than e, or are more probable tokens missing?"
        )
    if changes.bounds:
        yield (
            f"of {changes.bounds:,} of {changes.rows:,} rows the source tells of the gold token only how probable it is at "
            "most, which is taken for its logprob"
        )
