"""`merge`: the caches of several teachers become one of their mean; no teacher runs. Reads top to bottom.

caches of the same samples -> weights -> what a row is to hold -> prior of the mean -> part by part: decode -> mean -> encode

The mean itself is in distributions.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial

import torch
import xxhash

import logitstore
from logitstore.convert.parts import fit_on, shared_files, write_parts
from logitstore.convert.row_source import Mean
from logitstore.convert.rows import Remake
from logitstore.core.place import Place
from logitstore.core.progress import Progress, amount, no_progress
from logitstore.dump.begin import Fit, begin, target_folder
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.data import Member
from logitstore.format.manifest import MANIFEST_NAME, Manifest, TeacherInfo
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.settings.convert import MergeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.same_samples import check_same_samples
from logitstore.store.storage import Storage, open_storage, read_sealed
from logitstore.targets.shared import load_shared


def merge(settings: MergeSettings, progress: Progress = no_progress) -> Cache:
    """Write the cache that `settings` describes, or those of its parts that are missing.

    Raises:
        NotACache, CacheDamaged: a cache cannot be read.
        BadInput: options that cannot be used, or a cache that has no whole distributions.
        CacheMismatch: the caches are not complete, or of other samples or vocabularies; `settings.out` is another cache.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    _check_named(settings.caches)
    weights = weights_of(settings.weights, len(settings.caches))
    caches = _opened(settings.caches)
    first = caches[0]
    row = row_of(settings.preset, settings.choices(), first.manifest.teacher.vocabulary, None)
    wanted = _manifest(settings, caches, weights, row)
    mean = Mean.of(caches, weights)

    def fit() -> Fit:
        return fit_on(mean, first, row, settings.pilot_rows, progress) if row.tail.shape == "prior" else ({}, 0)

    out = open_storage(settings.out)
    with target_folder(settings.out, settings.caches):
        _refuse_another_mean(out, wanted)
        manifest = begin(out, wanted, partial(shared_files, first), fit)
    # what is stored decides, also where another process began this cache
    remake = Remake(
        row=row,
        shared=load_shared(out, manifest),
        distributions=mean,
        share=manifest.fidelity_rows / manifest.rows,
    )
    return write_parts(settings.out, manifest, first, remake, "merge", progress)


def _check_named(paths: Sequence[Place]) -> None:
    if len(paths) < 2:
        given = f"only {paths[0]} was given" if paths else "none was given"
        raise BadInput(f"merge needs two caches or more: {given}. Name all whose mean you want.")
    folders = [open_storage(path).address for path in paths]
    twice = next((path for place, path in enumerate(paths) if folders[place] in folders[:place]), None)
    if twice is not None:
        raise BadInput(f"{twice}: it is named twice. Name each cache once, and say what it counts with --weights.")


def weights_of(text: str | None, count: int) -> list[float]:
    """Return the weight of each cache, from a list such as `1,2`; the sum is 1.

    Raises:
        BadInput: the weights are not numbers from 0 on, one for each cache and one of them above 0.
    """
    if text is None:
        return [1 / count] * count
    try:
        weights = [float(piece) for piece in text.split(",")]
    except ValueError as error:
        raise BadInput(f"--weights {text}: write one number for each cache, such as 1,2.") from error
    if len(weights) != count:
        raise BadInput(f"--weights {text}: {len(weights)} for {count} caches. Give each cache one, in their order.")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise BadInput(f"--weights {text}: a weight is negative or no number. Give numbers from 0 on.")
    if not any(weights):
        raise BadInput(f"--weights {text}: nothing counts. Give at least one cache a weight above 0.")
    shares = [weight / max(weights) for weight in weights]
    return [share / sum(shares) for share in shares]


def _opened(paths: Sequence[Place]) -> list[Cache]:
    """Return the caches, checked as far as that is cheap."""
    caches = [Cache(path) for path in paths]
    for cache in caches:
        cache.check_sizes()
        cache.check_targets("merge")
        if cache.manifest.sparsifier.is_estimate:
            raise BadInput(
                f"{cache.path}: its rows are random draws ('{cache.manifest.sparsifier.name}'), which have no whole "
                "distribution to take the mean of. Dump with another preset."
            )
        if not cache.manifest.knows_gold:
            raise BadInput(
                f"{cache.path}: it was imported from lists that do not tell the logprob of every gold token, which a "
                "mean needs. "
                "Dump its teacher."
            )
        if not cache.complete:
            raise CacheMismatch(
                f"{cache.path}: it has {len(cache.part_numbers)} of its {amount(cache.manifest.parts, 'part')}. "
                "Finish it first: give the command that began them, dump or add, once more."
            )
    for other in caches[1:]:
        _check_same_vocabulary(caches[0], other)
        check_same_samples(caches[0], other, str(other.path))
    return caches


def _check_same_vocabulary(cache: Cache, other: Cache) -> None:
    first, second = cache.manifest, other.manifest
    if first.teacher.vocabulary != second.teacher.vocabulary:
        why = f"its teacher has {second.teacher.vocabulary:,} tokens, that of {cache.path} {first.teacher.vocabulary:,}"
    elif first.tokenizer != second.tokenizer:
        why = f"its token ids mean other pieces than those of {cache.path}"
    elif getattr(first.data, "classes", None) != getattr(second.data, "classes", None):
        why = f"its classes have other names than those of {cache.path}"
    else:
        return
    raise CacheMismatch(f"{other.path}: {why}. Merge caches of teachers with one vocabulary.")


def _manifest(settings: MergeSettings, caches: Sequence[Cache], weights: Sequence[float], row: RowInfo) -> Manifest:
    """Return the plan of the cache to be, but for the shared files: samples and parts are those of the first cache."""
    first = caches[0].manifest
    members = [
        Member(plan=cache.manifest.identity, teacher=cache.manifest.teacher.name, weight=weight)
        for cache, weight in zip(caches, weights, strict=True)
    ]
    return first.model_copy(
        update={
            "created_by": {"logitstore": logitstore.__version__, "torch": torch.__version__},
            "recoded_from": None,
            "origin": None,
            "merged_from": members,
            "teacher": _mean_teacher([cache.manifest.teacher for cache in caches], members),
            "fidelity_rows": max(cache.manifest.fidelity_rows for cache in caches),
            "preset": settings.preset,
            "sparsifier": row.sparsifier,
            "tail": row.tail,
            "codec": row.codec,
            "fields": row.fields,
        }
    )


def _mean_teacher(teachers: Sequence[TeacherInfo], members: Sequence[Member]) -> TeacherInfo:
    """Return the teacher of a mean; its fingerprint is its own. Fresh students are shaped like the first teacher."""
    is_even = len({member.weight for member in members}) == 1
    names = [member.teacher if is_even else f"{member.weight:.3g} {member.teacher}" for member in members]
    identity = json.dumps([[member.plan, member.weight] for member in members], separators=(",", ":"))
    dtypes = {teacher.dtype for teacher in teachers}
    return teachers[0].model_copy(
        update={
            "name": f"mean of {', '.join(names)}",
            "revision": None,
            "fingerprint": xxhash.xxh3_128_hexdigest(identity.encode()),
            "dtype": dtypes.pop() if len(dtypes) == 1 else "float32",
            "width": None,
            "architecture": " + ".join(dict.fromkeys(teacher.architecture for teacher in teachers)),
        }
    )


def _refuse_another_mean(out: Storage, wanted: Manifest) -> None:
    """Refuse a folder with the mean of other caches, in words: a fingerprint that differs says nothing to a user."""
    if out.size(MANIFEST_NAME) is None:
        return
    existing = read_sealed(Manifest, out, MANIFEST_NAME)
    if existing.teacher.fingerprint == wanted.teacher.fingerprint:
        return
    old, new = existing.merged_from, wanted.merged_from or []
    if old is None:
        why = "the cache there is no mean of others"
    elif [member.plan for member in old] != [member.plan for member in new]:
        why = f"the cache there was made from other caches, by {', '.join(member.teacher for member in old)}"
    else:
        weights = [",".join(f"{member.weight:.4g}" for member in members) for members in (old, new)]
        why = f"the cache there has the weights {weights[0]}, this command asks for {weights[1]}"
    raise CacheMismatch(f"--out {out}: {why}. Choose another folder, or give the same caches and weights as before.")
