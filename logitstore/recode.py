"""`recode`: a smaller cache, or one in another layout, from a cache alone; no teacher runs. Reads top to bottom.

source -> what a row is to hold -> way -> cache.json and shared files -> part by part: decode -> encode -> part writer

The ways are in recoders.py.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from logitstore.cache import layout
from logitstore.cache.part_writer import PartWriter
from logitstore.cache.reader import Cache
from logitstore.cache.staged_part import PartTaken
from logitstore.cache.verify import shared_problems
from logitstore.decode import decoder_of, load_shared
from logitstore.errors import BadInput, CacheMismatch, storage_errors
from logitstore.establish import refuse_other_plan
from logitstore.fields import CodecInfo, RowInfo, row_fields
from logitstore.keep import sparsifier_of
from logitstore.manifest import MANIFEST_NAME, Manifest, seal, seal_of_bytes, unseal
from logitstore.pilot import fitted as fitted_tail
from logitstore.pilot import listed_by
from logitstore.plans import RecodePlan
from logitstore.presets import row_of
from logitstore.recoders import head_of, hidden_chunks, is_copy, recoder_of
from logitstore.sparsify.sketch import TailPilot
from logitstore.tails import LatentTail
from logitstore.types import Progress, Step, no_progress

TRUNCATED = ("topk", "topp")
"""Sparsifiers whose rows can be made smaller without the teacher."""


def recode(plan: RecodePlan, progress: Progress = no_progress) -> Cache:
    """Write the cache that `plan` describes, or what is missing of it.

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
    _check_target(plan)
    fitted = _fitted_before(plan, row) or _fit(plan, source, row, progress)
    manifest = _establish(plan, source, row, *fitted)
    # what is stored decides, also where another process began this cache
    recoder = recoder_of(source, row, load_shared(plan.out, manifest))
    done = set(layout.committed_parts(plan.out))
    todo = [number for number in source.part_numbers if number not in done]
    for count, number in enumerate(todo, 1):
        part = source.part(number)
        samples = [part.samples.sample(index) for index in range(len(part.samples))]
        with suppress(PartTaken), PartWriter(plan.out, manifest, number, samples) as writer:
            recoder.write(part, samples, writer)
        progress(Step(stage="recode", done=count, total=len(todo), part=number))
    return Cache(plan.out)


def target_row(plan: RecodePlan, manifest: Manifest) -> RowInfo:
    """What a row is to hold: the source's, but for what the plan changes; or what a preset says.

    Raises:
        BadInput: settings that do not go together, or a row that cannot be made from the source's.
    """
    source, vocabulary = manifest.row, manifest.teacher.vocabulary
    chosen = plan.choices()
    if plan.preset is not None or source.sparsifier.name == "hidden":
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
    """Settings that rows of listed tokens cannot follow without the teacher."""
    for name, there in (
        ("sketch_bytes", source.tail.bytes),
        ("top_p", source.sparsifier.top_p),
        ("draws", source.sparsifier.draws),
        ("exponent", source.sparsifier.exponent),
    ):
        asked = getattr(plan, name)
        if asked is not None and asked != there:
            flag = "--" + name.replace("_", "-")
            raise BadInput(f"{flag} {asked}: {plan.cache} has {there}. Only a dump can change it.")


_NO_WAY = "{wanted} rows cannot be made from {source} rows without the teacher. Recode a cache of the preset 'exact', or dump."


def _with(codec: CodecInfo, **changes: str | None) -> CodecInfo:
    return codec.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _checked(plan: RecodePlan, source: RowInfo, row: RowInfo) -> RowInfo:
    """Refuse a target that says more than its source."""
    old, new = source.sparsifier, row.sparsifier
    if old.name == "hidden" or is_copy(source, row):
        return row
    if old.name not in TRUNCATED or new.name not in TRUNCATED or (new.name != old.name and new.name != "topk"):
        raise BadInput(_NO_WAY.format(wanted=new.name, source=old.name))
    if new.k > old.k:
        raise BadInput(f"-k {new.k}: the rows of {plan.cache} list {old.k} tokens. Give at most that many.")
    allowed = _SMALLER_TAILS[source.tail.shape]
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


def _check_target(plan: RecodePlan) -> None:
    if plan.out.resolve() == plan.cache.resolve():
        raise BadInput(f"--out {plan.out}: it is the source itself. Choose another folder.")
    if plan.out.exists() and not plan.out.is_dir():
        raise BadInput(f"--out {plan.out}: a file stands there. Choose another folder.")
    if plan.out.is_dir() and not (plan.out / MANIFEST_NAME).exists():
        names = {path.name for path in plan.out.iterdir() if not path.name.startswith(".")}
        if names - {layout.PARTS, layout.SHARED}:
            raise BadInput(f"--out {plan.out}: the folder holds other files. Choose an empty or new one.")


def _establish(plan: RecodePlan, source: Cache, row: RowInfo, shared: dict[str, Tensor], pilot_rows: int) -> Manifest:
    """Write the shared files and then `cache.json`, or make sure that those which are there are this plan's.

    Raises:
        CacheMismatch: another plan's cache is there, or a shared file of it is damaged and cannot be made again.
    """
    old = source.manifest
    contents = {name: layout.inside(source.path, name).read_bytes() for name in old.shared if name != old.tail.file}
    tail = row.tail.model_copy(update={"file": None, "pilot_rows": pilot_rows})
    if shared:
        content = safetensors.torch.save(shared)
        tail = tail.model_copy(update={"file": layout.shared_name("tail", content, ".safetensors")})
        contents[str(tail.file)] = content
    manifest = old.model_copy(
        update={
            "recoded_from": old.identity,
            "preset": plan.preset or (old.preset if is_copy(old.row, row) else None),
            "sparsifier": row.sparsifier,
            "tail": tail,
            "codec": row.codec,
            "fields": row_fields(row.sparsifier, tail, row.codec, row.vocabulary),
            "shared": {name: seal_of_bytes(content) for name, content in contents.items()},
        }
    )
    with storage_errors(plan.out):
        if not (plan.out / MANIFEST_NAME).exists():
            for name, content in contents.items():
                layout.write_whole(plan.out / name, content)
            if layout.write_first(plan.out / MANIFEST_NAME, seal(manifest)):
                return manifest
        found = unseal(Manifest, plan.out / MANIFEST_NAME)
        refuse_other_plan(plan.out, found, manifest)
        for name in contents.keys() - found.shared.keys():
            (plan.out / name).unlink(missing_ok=True)
        for problem in shared_problems(plan.out, found):
            if found.shared.get(problem.file) != manifest.shared.get(problem.file):
                raise CacheMismatch(f"--out {plan.out}: {problem.file} is damaged. Recode into a new folder.")
            layout.write_whole(plan.out / problem.file, contents[problem.file])
    return found


def _fitted_before(plan: RecodePlan, row: RowInfo) -> tuple[dict[str, Tensor], int] | None:
    """What an earlier go fitted, so that all parts are made with the same; None where it is not there or not whole."""
    if not (plan.out / MANIFEST_NAME).exists():
        return None
    found = unseal(Manifest, plan.out / MANIFEST_NAME)
    same = (found.sparsifier, found.tail.shape, found.tail.bytes) == (row.sparsifier, row.tail.shape, row.tail.bytes)
    if not same or any(problem.file == found.tail.file for problem in shared_problems(plan.out, found)):
        return None
    return load_shared(plan.out, found), found.tail.pilot_rows


def _fit(plan: RecodePlan, source: Cache, row: RowInfo, progress: Progress) -> tuple[dict[str, Tensor], int]:
    """The shared tensors of the target's tail, and the rows they were fitted on: the source's own, or fitted on its rows."""
    if row.tail.shape in ("none", "uniform"):
        return {}, 0
    shared, pilot_rows = load_shared(source.path, source.manifest), source.manifest.tail.pilot_rows
    if row.tail.shape == source.manifest.tail.shape:
        return shared, pilot_rows
    if source.manifest.tail.shape != "head":
        return {"prior": shared["prior"]}, pilot_rows
    decoder = decoder_of(source)
    if not isinstance(decoder.tail, LatentTail):
        raise ValueError("hidden states without a head")
    head = head_of(decoder.tail)
    pilot = TailPilot(row.vocabulary, head if row.tail.shape == "sketch" else None)
    sparsifier = sparsifier_of(row)
    per_sample = max(source.rows / max(len(source), 1), 1)
    count = min(len(source), max(int(plan.pilot_rows / per_sample), 1))
    for index in np.unique(np.linspace(0, len(source) - 1, count).round()).astype(int):
        part, number = source.locate(int(index))
        sample = part.samples.sample(number)
        stored = {name: np.array(array[part.span(number)]) for name, array in part.fields.items()}
        for chunk in hidden_chunks(decoder, head, stored, torch.from_numpy(sample.gold_N)):
            pilot.add(chunk.logits_nV, listed_by(sparsifier, chunk, row.vocabulary), chunk.hidden_nD)
        progress(Step(stage="pilot", done=pilot.rows, total=int(count * per_sample)))
    return fitted_tail(pilot, row), pilot.rows
