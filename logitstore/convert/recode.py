"""`recode`: a smaller cache, or one in another layout, from a cache alone; no teacher runs. Reads top to bottom.

source -> what a row is to hold -> recoder -> cache.json and shared files -> part by part: decode -> encode -> part writer

recoders.py has what makes the rows.
"""

from __future__ import annotations

from functools import partial

from logitstore.convert.features import OF_VECTORS, refuse_row_options, write_copy
from logitstore.convert.parts import check_whole, fit_on, shared_files, write_parts
from logitstore.convert.row_source import HiddenStates
from logitstore.convert.rows import is_copy, recoder_of
from logitstore.core.progress import Progress, no_progress
from logitstore.core.tasks import task_of
from logitstore.dump.begin import Fit, begin, target_folder
from logitstore.errors import BadInput
from logitstore.format.manifest import Manifest
from logitstore.format.presets import row_of
from logitstore.format.row import CodecInfo, RowInfo, TailInfo
from logitstore.format.row_kinds import ARGUMENTS
from logitstore.settings.convert import RecodeSettings
from logitstore.store.cache import Cache
from logitstore.store.storage import open_storage
from logitstore.targets.shared import load_shared


def recode(settings: RecodeSettings, progress: Progress = no_progress) -> Cache:
    """Write the cache that `settings` describes, or those of its parts that are missing.

    Raises:
        NotACache, CacheDamaged: the source cannot be read, or a file of it is not what its seal says.
        BadInput: the source does not hold what the target needs.
        CacheMismatch: `settings.out` is a cache of another plan.
        StorageError: the disk is full or the folder cannot be written.
    """
    source = Cache(settings.cache)
    source.check_sizes()
    keeps = task_of(source.manifest.task).keeps
    if keeps is None:
        source.check_targets("recode")
    if not len(source):
        raise BadInput(f"{settings.cache}: no part of it is committed. Finish its dump first.")
    if keeps is not None:
        refuse_row_options(settings, source, f"{OF_VECTORS}; --layout alone changes how these lie")
        source.taps[keeps].check_has(source.part_numbers)
    elif not source.manifest.sparsifier.kind.is_distribution:
        refuse_row_options(settings, source, "keeps one score of each row; --layout alone changes how these lie")
    row = target_row(settings, source.manifest)
    wanted = _manifest(settings, source.manifest, row)
    with target_folder(settings.out, [settings.cache]):
        out = open_storage(settings.out)
        check_whole([source], [] if keeps is None else [keeps], out, wanted, progress)
        manifest = begin(out, wanted, partial(shared_files, source), lambda: _fit(settings, source, row, progress))
    # what is stored decides, also where another process began this cache
    recoder = recoder_of(source, row, load_shared(out, manifest))
    made = write_parts(settings.out, manifest, source, recoder, "recode", progress)
    return made if keeps is None else write_copy(settings.out, source, keeps, progress)


def target_row(settings: RecodeSettings, manifest: Manifest) -> RowInfo:
    """Return what a row is to hold: what the source's holds but for what the plan changes, or what a preset says.

    Raises:
        BadInput: settings that do not go together, or a row that cannot be made from the source's.
    """
    source, vocabulary = manifest.row, manifest.teacher.vocabulary
    chosen = settings.choices()
    if settings.preset is not None or source.sparsifier.kind.keeps_hidden:
        if settings.preset is None and not any(value is not None for name, value in chosen.items() if name != "layout"):
            return source.model_copy(update={"codec": _with(source.codec, layout=settings.layout)})
        row = row_of(settings.preset or "small", chosen, vocabulary, source.tail.width or manifest.teacher.width)
    else:
        if settings.sparsifier not in (None, source.sparsifier.name):
            raise BadInput(_NO_WAY.format(wanted=settings.sparsifier, source=source.sparsifier.name))
        tail = source.tail
        if settings.tail is not None and settings.tail != tail.shape:
            tail = tail.model_copy(update={"shape": settings.tail, "bytes": None, "rounding": None})
        _refuse_unused(settings, source)
        if settings.rounding is not None and tail.shape != "sketch":
            raise BadInput(
                f"--rounding {settings.rounding}: these rows have no sketch, so it changes nothing. Leave it out."
            )
        codec = _with(source.codec, logprobs=settings.logprobs, tail=settings.tail_mass, layout=settings.layout)
        sparsifier = source.sparsifier.model_copy(update={"k": settings.k or source.sparsifier.k})
        row = source.model_copy(update={"sparsifier": sparsifier, "tail": tail, "codec": codec})
    return _checked(settings, source, row)


def _refuse_unused(settings: RecodeSettings, source: RowInfo) -> None:
    """Refuse settings that rows of listed tokens cannot follow without the teacher."""
    stored = {"sketch_bytes": source.tail.bytes} | {name: getattr(source.sparsifier, name) for name in ARGUMENTS}
    for name, value in stored.items():
        asked = getattr(settings, name)
        if asked is not None and asked != value:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag} {asked}: {settings.cache} has {value}. Only a dump can change it.")


_NO_WAY = "{wanted} rows cannot be made from {source} rows without the teacher. Recode a cache of the preset 'exact', or dump."


def _with(codec: CodecInfo, **changes: str | None) -> CodecInfo:
    return codec.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _checked(settings: RecodeSettings, source: RowInfo, row: RowInfo) -> RowInfo:
    """Return `row`. Raises BadInput when it says more than the source's rows do."""
    old, new = source.sparsifier, row.sparsifier
    if old.kind.keeps_hidden:
        return row
    if row.tail.shape == "sketch":
        row = row.model_copy(update={"tail": _copied(settings, source.tail, row.tail)})
    if is_copy(source, row):
        return row
    if new.name not in old.kind.cut_to:
        raise BadInput(_NO_WAY.format(wanted=new.name, source=old.name))
    if new.k > old.k:
        raise BadInput(f"-k {new.k}: the rows of {settings.cache} list {old.k} tokens. Give at most that many.")
    allowed = [shape for shape in _SMALLER_TAILS[source.tail.shape] if shape in new.kind.tails]
    if row.tail.shape not in allowed or (row.tail.shape == "sketch" and row.tail.bytes != source.tail.bytes):
        raise BadInput(
            f"--tail {row.tail.shape}: the tail of {settings.cache} is {source.tail.shape}, from which can be made: "
            f"{', '.join(allowed)}" + (f" (of {source.tail.bytes} B)." if source.tail.bytes else ".")
        )
    return row


def _copied(settings: RecodeSettings, source: TailInfo, tail: TailInfo) -> TailInfo:
    """Return the sketch with the source's rounding: its coefficients are copied. Raises BadInput: another is asked for."""
    stored = source.rounding or "nearest"
    if source.shape == "sketch" and settings.rounding not in (None, stored):
        raise BadInput(
            f"--rounding {settings.rounding}: the levels of {settings.cache} were chosen by '{stored}' and are copied. "
            "Leave it out, recode a cache of the preset 'exact', or dump."
        )
    return tail.model_copy(update={"rounding": source.rounding})


_SMALLER_TAILS = {
    "sketch": ("sketch", "prior", "uniform", "none"),
    "prior": ("prior", "uniform", "none"),
    "uniform": ("uniform", "none"),
    "none": ("none",),
}


def _manifest(settings: RecodeSettings, source: Manifest, row: RowInfo) -> Manifest:
    """Return the plan of the cache to be, but for the shared files."""
    return source.model_copy(
        update={
            "recoded_from": source.identity,
            # a copy has the rows of its source, so it comes from where they came from
            "origin": source.origin if is_copy(source.row, row) else source.identity,
            "preset": settings.preset or (source.preset if is_copy(source.row, row) else None),
            "sparsifier": row.sparsifier,
            "tail": row.tail,
            "codec": row.codec,
            "fields": row.fields,
        }
    )


def _fit(settings: RecodeSettings, source: Cache, row: RowInfo, progress: Progress) -> Fit:
    """Return what the target's rows share of their tails: what the source's share, or what is fitted on its rows."""
    if not row.tail.is_fitted:
        return {}, 0
    hidden = HiddenStates.of(source)
    if hidden is not None and row.tail.shape != "head":
        head = hidden.head if row.tail.shape == "sketch" else None
        return fit_on(hidden, source, row, settings.pilot_rows, progress, head)
    shared, pilot_rows = load_shared(source.storage, source.manifest), source.manifest.tail.pilot_rows
    return (shared if row.tail.shape == source.manifest.tail.shape else {"prior": shared["prior"]}), pilot_rows
