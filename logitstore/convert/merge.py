"""`merge`: the caches of several teachers become one, of their mean or of the best of them for each row; no teacher runs.
Reads top to bottom.

caches of the same samples -> weights -> what a row is to hold -> prior of the mean -> part by part: decode -> mean -> encode

The mean itself is in row_source.py. What chooses a cache for each row is in choice.py; its rows are copied where they fit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import partial

import torch
import xxhash

import logitstore
from logitstore.convert.choice import Choice, Pick, RowByRow
from logitstore.convert.features import check_features, write_mean
from logitstore.convert.parts import check_whole, fit_on, shared_files, write_parts
from logitstore.convert.row_source import Mean
from logitstore.convert.rows import Recoder, Remake, is_copy
from logitstore.convert.scores import MeanScores
from logitstore.core.place import Place
from logitstore.core.progress import Progress, Step, amount, no_progress
from logitstore.core.tasks import task_of
from logitstore.core.types import ChosenBy
from logitstore.dump.begin import Fit, begin, target_folder
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.data import Member, TeacherInfo
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.presets import row_of
from logitstore.format.row import RowInfo
from logitstore.format.sealed import FileSeal
from logitstore.settings.convert import MergeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.same_samples import check_same_samples, check_same_vocabulary
from logitstore.store.storage import Storage, open_storage, read_sealed
from logitstore.targets.shared import load_shared


def merge(settings: MergeSettings, progress: Progress = no_progress) -> Cache:
    """Write the cache that `settings` describes, or those of its parts that are missing.

    Raises:
        NotACache, CacheDamaged: a cache cannot be read, or a file of it is not what its seal says.
        BadInput: options that cannot be used, or a cache that has no whole distributions.
        CacheMismatch: the caches are not complete, or of other samples or vocabularies; `settings.out` is another cache.
        StorageError: the disk is full or the folder cannot be written; what is committed stays.
    """
    _check_named(settings.caches)
    if settings.by is not None and settings.weights is not None:
        raise BadInput(
            f"--weights {settings.weights} with --by {settings.by}: each row is that of one cache, so there is nothing to "
            "weigh. Leave one out."
        )
    weights = weights_of(settings.weights, len(settings.caches))
    caches = _opened(settings.caches)
    first, keeps = caches[0], task_of(caches[0].manifest.task).keeps
    for note in _scores_left(caches):
        progress(Step(stage="note", done=1, total=1, note=note))
    is_of_scores = not first.manifest.sparsifier.kind.is_distribution
    if is_of_scores:
        _refuse_rows(settings)
    copies = is_of_scores or (settings.by is not None and settings.preset is None and not _asks_for_rows(settings))
    if keeps is not None:
        check_features(settings, caches, keeps)
        copies = True
    elif settings.by == "gold" and first.sums.no_gold == first.rows:
        raise BadInput(
            f"--by gold: {first.path}: no row has a gold token or label. Choose by confidence or by entropy."
        )
    if copies:
        _check_same_form(caches)
        row = first.manifest.row
        row = row.model_copy(
            update={"codec": row.codec.model_copy(update={"layout": settings.layout or row.codec.layout})}
        )
    else:
        row = row_of(settings.preset or "topk", settings.choices(), first.manifest.teacher.vocabulary, None)
    wanted = _manifest(settings, caches, weights, row, copies)
    source: Mean | RowByRow | MeanScores | None = None
    if is_of_scores:
        source = MeanScores(caches=caches, weights=weights)
    elif keeps is None:
        source = Mean.of(caches, weights)
        if settings.by is not None:
            source = RowByRow(choice=Choice.of(settings.by, caches))

    def fit() -> Fit:
        if copies or source is None or isinstance(source, MeanScores):
            return load_shared(first.storage, first.manifest), first.manifest.tail.pilot_rows
        return fit_on(source, first, row, settings.pilot_rows, progress) if row.tail.shape == "prior" else ({}, 0)

    out = open_storage(settings.out)
    with target_folder(settings.out, settings.caches):
        _refuse_another_mean(out, wanted)
        check_whole(caches, [] if keeps is None else [keeps], out, wanted, progress)
        manifest = begin(out, wanted, partial(shared_files, first), fit)
    if keeps is not None or source is None:
        write_parts(settings.out, manifest, first, Recoder(), "merge", progress)
        return write_mean(settings.out, caches, weights, str(keeps), progress)
    recoder: Recoder
    if isinstance(source, MeanScores):
        recoder = source
    elif copies and isinstance(source, RowByRow):
        recoder = Pick(choice=source.choice)
    else:
        # what is stored decides, also where another process began this cache
        recoder = Remake(
            row=row,
            shared=load_shared(out, manifest),
            distributions=source,
            share=manifest.fidelity_rows / manifest.rows,
        )
    return write_parts(settings.out, manifest, first, recoder, "merge", progress)


def _scores_left(caches: Sequence[Cache]) -> list[str]:
    """Say which caches have scores or groups that the merged one will not have: it takes those of the first."""
    here, *others = [getattr(cache.manifest.data, "scores", None) for cache in caches]
    return [
        f"{cache.path}: its scores and groups are not those of {caches[0].path}, and are not kept. Name it first to keep them."
        for cache, there in zip(caches[1:], others, strict=True)
        if there is not None and there != here
    ]


def _refuse_rows(settings: MergeSettings) -> None:
    """Refuse what means nothing to rows of one number each. Raises BadInput."""
    given = {"preset": settings.preset, **settings.choices(), "by": settings.by}
    for name, value in given.items():
        if value is not None and name != "layout":
            flag = "-k" if name == "k" else f"--{name.replace('_', '-')}"
            raise BadInput(
                f"{flag} {value}: {settings.caches[0]} keeps one score of each row, whose mean is taken. Leave it out."
            )


def _asks_for_rows(settings: MergeSettings) -> bool:
    """Return True where an option says what a row is to hold; how rows lie on disk is not one."""
    return any(value is not None for name, value in settings.choices().items() if name != "layout")


def _check_same_form(caches: Sequence[Cache]) -> None:
    """Refuse caches whose stored rows do not fit one cache. Raises CacheMismatch."""
    first = caches[0]
    for other in caches[1:]:
        here, there = first.manifest, other.manifest
        if not is_copy(here.row, there.row):
            why = f"its rows are {_form(there.row)}, those of {first.path} {_form(here.row)}"
        elif _tail_seal(here) != _tail_seal(there):
            what = {"prior": "prior", "sketch": "basis of their sketches", "head": "output layer of the teacher"}
            why = f"its rows share another {what[there.tail.shape]} than those of {first.path}"
        else:
            continue
        raise CacheMismatch(
            f"{other.path}: {why}, so the bytes of both do not fit one cache. Recode each to one form first, such as "
            f"`logitstore recode CACHE --preset topk -k {_shortest(caches)} --tail uniform`, or give --preset topk here: the "
            "chosen rows are decoded and stored anew, and their error is printed."
        )


def _shortest(caches: Sequence[Cache]) -> int:
    """Return how many tokens the rows of every one of the caches list, at most 20."""
    sparsifiers = [cache.manifest.row.sparsifier for cache in caches]
    listed = [each.k for each in sparsifiers if each.kind.lists.is_chosen]
    return min([*listed, caches[0].manifest.teacher.vocabulary, 20])


def _form(row: RowInfo) -> str:
    """Say what a row holds, in a few words."""
    tail = f"{row.tail.shape} of {row.tail.bytes} B" if row.tail.bytes else row.tail.shape
    k = f" k={row.sparsifier.k}" if row.sparsifier.kind.lists.is_chosen else ""
    return f"{row.sparsifier.name}{k} with the tail {tail} and logprobs {row.codec.logprobs}"


def _tail_seal(manifest: Manifest) -> FileSeal | None:
    return None if manifest.tail.file is None else manifest.shared[manifest.tail.file]


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
        if task_of(cache.manifest.task).keeps is None:
            cache.check_targets("merge")
        if cache.manifest.sparsifier.is_estimate:
            raise BadInput(
                f"{cache.path}: its rows are random draws ('{cache.manifest.sparsifier.name}'), which have no whole "
                "distribution to take the mean of, and no most probable token. Dump with another preset."
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
        check_same_vocabulary(caches[0], other)
        check_same_samples(caches[0], other, str(other.path))
    return caches


def _manifest(
    settings: MergeSettings, caches: Sequence[Cache], weights: Sequence[float], row: RowInfo, copies: bool
) -> Manifest:
    """Return the plan of the cache to be, but for the shared files: samples and parts are those of the first cache."""
    first = caches[0].manifest
    members = [
        Member(
            plan=cache.manifest.identity,
            teacher=cache.manifest.teacher.name,
            weight=weight if settings.by is None else None,
        )
        for cache, weight in zip(caches, weights, strict=True)
    ]
    presets = {cache.manifest.preset for cache in caches}
    return first.model_copy(
        update={
            "created_by": {"logitstore": logitstore.__version__, "torch": torch.__version__},
            "recoded_from": None,
            "origin": None,
            "merged_from": members,
            "chosen_by": settings.by,
            "teacher": _teacher_of([cache.manifest.teacher for cache in caches], members, settings.by, copies),
            # copied rows are compared with nothing: which of the caches' measured rows they are is not known any more
            "fidelity_rows": 0 if copies else max(cache.manifest.fidelity_rows for cache in caches),
            "preset": (first.preset if len(presets) == 1 else None) if copies else settings.preset or "topk",
            "sparsifier": row.sparsifier,
            "tail": row.tail,
            "codec": row.codec,
            "fields": row.fields,
        }
    )


def _teacher_of(
    teachers: Sequence[TeacherInfo], members: Sequence[Member], by: ChosenBy | None, copies: bool
) -> TeacherInfo:
    """Return the teacher of a merged cache; its fingerprint is its own. Fresh students are shaped like the first teacher.

    Copied hidden states keep their width: all of them are of one head, so of one width.
    """
    is_even = len({member.weight for member in members}) == 1
    names = [member.teacher if is_even else f"{member.weight:.3g} {member.teacher}" for member in members]
    parts = [[member.plan, member.weight if by is None else by] for member in members]
    identity = json.dumps(parts, separators=(",", ":"))
    dtypes = {teacher.dtype for teacher in teachers}
    return teachers[0].model_copy(
        update={
            "name": f"mean of {', '.join(names)}" if by is None else f"best by {by} of {', '.join(names)}",
            "revision": None,
            "fingerprint": xxhash.xxh3_128_hexdigest(identity.encode()),
            "dtype": dtypes.pop() if len(dtypes) == 1 else "float32",
            "width": teachers[0].width if copies else None,
            "architecture": " + ".join(dict.fromkeys(teacher.architecture for teacher in teachers)),
        }
    )


def _refuse_another_mean(out: Storage, wanted: Manifest) -> None:
    """Refuse a folder that was merged of other caches, in words: a fingerprint that differs says nothing to a user."""
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
    elif existing.chosen_by != wanted.chosen_by:
        ways = [f"--by {by}" if by else "the mean" for by in (existing.chosen_by, wanted.chosen_by)]
        why = f"the cache there is {ways[0]}, this command asks for {ways[1]}"
    else:
        weights = [",".join(f"{member.weight:.4g}" for member in members) for members in (old, new)]
        why = f"the cache there has the weights {weights[0]}, this command asks for {weights[1]}"
    raise CacheMismatch(f"--out {out}: {why}. Choose another folder, or give the same caches and weights as before.")
