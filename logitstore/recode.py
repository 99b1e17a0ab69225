"""`recode`: a smaller cache, or one in another layout, from a cache alone; no teacher runs. Reads top to bottom.

source -> what a row is to hold -> recoder -> cache.json and shared files -> part by part: decode -> encode -> part writer

recoders.py has what makes the rows.
"""

from __future__ import annotations

from logitstore.cache.reader import Cache
from logitstore.decode import load_shared
from logitstore.derive import Fit, begin, check_target, fit_on, write_parts
from logitstore.distributions import HiddenStates
from logitstore.errors import BadInput
from logitstore.fields import CodecInfo, RowInfo
from logitstore.manifest import Manifest
from logitstore.plans import RecodePlan
from logitstore.presets import row_of
from logitstore.recoders import is_copy, recoder_of
from logitstore.row_kinds import ARGUMENTS
from logitstore.types import Progress, no_progress


def recode(plan: RecodePlan, progress: Progress = no_progress) -> Cache:
    """Write the cache that `plan` describes, or those of its parts that are missing.

    Raises:
        NotACache, CacheDamaged: the source cannot be read.
        BadInput: the source does not hold what the target needs.
        CacheMismatch: `plan.out` is a cache of another plan.
        StorageError: the disk is full or the folder cannot be written.
    """
    source = Cache(plan.cache)
    source.check_sizes()
    source.check_targets("recode")
    if not len(source):
        raise BadInput(f"{plan.cache}: no part of it is committed. Finish its dump first.")
    row = target_row(plan, source.manifest)
    check_target(plan.out, [plan.cache])
    wanted = _manifest(plan, source.manifest, row)
    manifest = begin(plan.out, source, wanted, lambda: _fit(plan, source, row, progress))
    # what is stored decides, also where another process began this cache
    recoder = recoder_of(source, row, load_shared(plan.out, manifest))
    return write_parts(plan.out, manifest, source, recoder, "recode", progress)


def target_row(plan: RecodePlan, manifest: Manifest) -> RowInfo:
    """Return what a row is to hold: what the source's holds but for what the plan changes, or what a preset says.

    Raises:
        BadInput: settings that do not go together, or a row that cannot be made from the source's.
    """
    source, vocabulary = manifest.row, manifest.teacher.vocabulary
    chosen = plan.choices()
    if plan.preset is not None or source.sparsifier.kind.keeps_hidden:
        if plan.preset is None and not any(value is not None for name, value in chosen.items() if name != "layout"):
            return source.model_copy(update={"codec": _with(source.codec, layout=plan.layout)})
        row = row_of(plan.preset or "small", chosen, vocabulary, source.tail.width or manifest.teacher.width)
    else:
        if plan.sparsifier not in (None, source.sparsifier.name):
            raise BadInput(_NO_WAY.format(wanted=plan.sparsifier, source=source.sparsifier.name))
        tail = source.tail
        if plan.tail is not None and plan.tail != tail.shape:
            tail = tail.model_copy(update={"shape": plan.tail, "bytes": None})
        _refuse_unused(plan, source)
        codec = _with(source.codec, logprobs=plan.logprobs, tail=plan.tail_mass, layout=plan.layout)
        sparsifier = source.sparsifier.model_copy(update={"k": plan.k or source.sparsifier.k})
        row = source.model_copy(update={"sparsifier": sparsifier, "tail": tail, "codec": codec})
    return _checked(plan, source, row)


def _refuse_unused(plan: RecodePlan, source: RowInfo) -> None:
    """Refuse settings that rows of listed tokens cannot follow without the teacher."""
    stored = {"sketch_bytes": source.tail.bytes} | {name: getattr(source.sparsifier, name) for name in ARGUMENTS}
    for name, value in stored.items():
        asked = getattr(plan, name)
        if asked is not None and asked != value:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag} {asked}: {plan.cache} has {value}. Only a dump can change it.")


_NO_WAY = "{wanted} rows cannot be made from {source} rows without the teacher. Recode a cache of the preset 'exact', or dump."


def _with(codec: CodecInfo, **changes: str | None) -> CodecInfo:
    return codec.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _checked(plan: RecodePlan, source: RowInfo, row: RowInfo) -> RowInfo:
    """Return `row`. Raises BadInput when it says more than the source's rows do."""
    old, new = source.sparsifier, row.sparsifier
    if old.kind.keeps_hidden or is_copy(source, row):
        return row
    if new.name not in old.kind.cut_to:
        raise BadInput(_NO_WAY.format(wanted=new.name, source=old.name))
    if new.k > old.k:
        raise BadInput(f"-k {new.k}: the rows of {plan.cache} list {old.k} tokens. Give at most that many.")
    allowed = [shape for shape in _SMALLER_TAILS[source.tail.shape] if shape in new.kind.tails]
    if row.tail.shape not in allowed or (row.tail.shape == "sketch" and row.tail.bytes != source.tail.bytes):
        raise BadInput(
            f"--tail {row.tail.shape}: the tail of {plan.cache} is {source.tail.shape}, from which can be made: "
            f"{', '.join(allowed)}" + (f" (of {source.tail.bytes} B)." if source.tail.bytes else ".")
        )
    return row


_SMALLER_TAILS = {
    "sketch": ("sketch", "prior", "uniform", "none"),
    "prior": ("prior", "uniform", "none"),
    "uniform": ("uniform", "none"),
    "none": ("none",),
}


def _manifest(plan: RecodePlan, source: Manifest, row: RowInfo) -> Manifest:
    """Return the plan of the cache to be, but for the shared files."""
    return source.model_copy(
        update={
            "recoded_from": source.identity,
            "preset": plan.preset or (source.preset if is_copy(source.row, row) else None),
            "sparsifier": row.sparsifier,
            "tail": row.tail,
            "codec": row.codec,
            "fields": row.fields,
        }
    )


def _fit(plan: RecodePlan, source: Cache, row: RowInfo, progress: Progress) -> Fit:
    """Return what the target's rows share of their tails: what the source's share, or what is fitted on its rows."""
    if not row.tail.is_fitted:
        return {}, 0
    hidden = HiddenStates.of(source)
    if hidden is not None and row.tail.shape != "head":
        head = hidden.head if row.tail.shape == "sketch" else None
        return fit_on(hidden, source, row, plan.pilot_rows, progress, head)
    shared, pilot_rows = load_shared(source.path, source.manifest), source.manifest.tail.pilot_rows
    return (shared if row.tail.shape == source.manifest.tail.shape else {"prior": shared["prior"]}), pilot_rows
