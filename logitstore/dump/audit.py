"""`verify --against-teacher`: ask the teacher again about a random share of the samples, and compare the answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from logitstore.core.order import salt_of
from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.random import hashed
from logitstore.core.tasks import task_of
from logitstore.core.types import Array, CachedSample
from logitstore.dump.ask import announced, entropies
from logitstore.dump.compare.vectors import features_apart
from logitstore.dump.task import AskAgain, Prepared, dump_task
from logitstore.dump.teachers.teacher import Teacher, TeacherBatch
from logitstore.errors import BadInput, CacheDamaged, CacheMismatch
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.needs import ITS_LOGITS, LOGITS, TOP_LOGPROBS, Wants, called, entries_of
from logitstore.settings.look import VerifySettings
from logitstore.settings.models.engine import ServingChoices
from logitstore.settings.models.placing import PlacementChoices
from logitstore.settings.tasks import refuse_other_tasks
from logitstore.store.cache import Cache
from logitstore.targets.rows import RowChunk, TopLogprobs

HALF_STEP = 2.0**-11
"""Relative half step of float16: the largest relative change from storing a logprob in float16."""

STEPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23}
"""Largest relative distance of neighbouring numbers: a score is one of them, and another batch may give the next one."""

LEAST = 8
"""Fewest samples that are asked about again: of one alone, both batchings are the same, and the teacher's spread is 0."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit: the largest differences, in nats.

    Attributes:
        rows: count of rows that the teacher was asked about again.
        stored: difference between the stored logprobs (listed, gold, tail) and the teacher's logprobs now, beyond what rounding
            to float16 explains.
        spread: difference between the teacher's own logprobs of the same tokens in batches as in the dump, and one sample at
            a time.
        same_weights: True if the teacher's weights are the ones that the manifest names; None where another engine answers than
            the one of the dump, and they cannot be compared.
        chosen: by how much a position without a row has a higher entropy now than one of its sample with a row, beyond what
            rounding to float16 explains; None where the teacher's answers did not choose the rows.
        allowed: the tolerance that was asked for; None for the default.
        unit: what the differences are measured in: "nats", or 1 - cosine where a cache keeps vectors.
    """

    rows: int
    stored: float
    spread: float
    same_weights: bool | None
    chosen: float | None = None
    allowed: float | None = None
    unit: str = "nats"

    @property
    def tolerance(self) -> float:
        """The largest `stored` and `chosen` that pass. By default three times the teacher's own spread, at least 0.001 nats."""
        return max(3 * self.spread, 1e-3) if self.allowed is None else self.allowed

    @property
    def passed(self) -> bool:
        largest = max(self.stored, self.chosen or 0.0)
        if self.same_weights is False:
            return False
        return math.isfinite(largest) and math.isfinite(self.spread) and largest <= self.tolerance


def check_audit(settings: VerifySettings) -> None:
    """Refuse a comparison that cannot be, before the cache is verified.

    Raises:
        BadInput: its rows are not one teacher's, or an option means nothing to the task.
        CacheMismatch: the cache holds no sample, or no targets.
    """
    try:
        cache = Cache(settings.cache)
    except CacheDamaged:
        return  # which `verify` tells in full
    task = cache.manifest.task
    refuse_other_tasks(settings, "verify", task, f"{settings.cache}, a cache of {task_of(task).samples}")
    _check_rows(cache, str(settings.against_teacher))


def _check_rows(cache: Cache, teacher: str) -> None:
    """Refuse a cache without rows of one teacher."""
    if not len(cache):
        raise CacheMismatch(f"{cache.path}: no part is committed, so there is nothing to compare.")
    if cache.manifest.is_derived:
        raise BadInput(
            f"{cache.path}: its rows were made from other caches and are not a teacher's own. Compare those it was made from."
        )
    if cache.manifest.imported is not None:
        raise BadInput(
            f"{cache.path}: its rows were imported, and the weights of the teacher that gave them are not known. Leave out "
            "--against-teacher."
        )
    if task_of(cache.manifest.task).keeps is None:
        cache.check_targets(f"--against-teacher {teacher}")


def audit(
    cache: Cache,
    teacher: str,
    share: float,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = no_progress,
    images: str | None = None,
    trust_remote_code: bool = False,
    placing: PlacementChoices | None = None,
    engine: ServingChoices | None = None,
    tolerance: float | None = None,
) -> Audit:
    """Compare a random share of a cache with its teacher.

    `trust_remote_code` runs the code that comes with the teacher; `placing` says more of where it runs than `device`; `engine`
    which engine answers; `tolerance` is how far the logprobs may be apart, in nats.

    Raises:
        ModelError: the teacher cannot be loaded.
        CacheMismatch: the cache holds no sample, or the teacher has a smaller vocabulary.
    """
    _check_rows(cache, teacher)
    again = AskAgain(
        teacher=teacher,
        images=images,
        placing=placing or PlacementChoices(device=device),
        trust_remote_code=trust_remote_code,
        engine=engine or ServingChoices(),
    )
    prepared = dump_task(cache.manifest.task).reopen(cache, again, progress)
    if not prepared.gives & {LOGITS, TOP_LOGPROBS}:
        raise BadInput(
            f"--against-teacher {teacher}: it gives {called(prepared.gives)}, and no logprobs to compare with."
        )
    with closing(prepared.load()) as loaded:
        found = _compared(cache, loaded, prepared, share, seed, progress)
        return replace(found, allowed=tolerance)


def _compared(cache: Cache, loaded: Teacher, prepared: Prepared, share: float, seed: int, progress: Progress) -> Audit:
    """Ask a teacher again about a share of the samples."""
    batches = prepared.batches
    count = min(max(round(share * len(cache)), LEAST), len(cache))
    chosen = np.sort(np.argsort(hashed(np.arange(len(cache)), salt_of(seed, 0, 7)), kind="stable")[:count])
    if (keeps := task_of(cache.manifest.task).keeps) is not None:
        stored, spread = features_apart(cache, keeps, loaded, batches, chosen, progress)
        same = _same_weights(cache, loaded)
        return Audit(rows=count, stored=stored, spread=spread, same_weights=same, unit="of 1 - cosine")
    cached = [cache[int(index)] for index in chosen]
    samples = [each.sample for each in cached]
    together = _logprobs(loaded, cache, batches(samples), cached)
    alone = []
    for done, each in enumerate(cached, 1):
        alone += _logprobs(loaded, cache, batches([each.sample]), [each])
        progress(Step(stage="ask again", done=done, total=len(cached)))
    shortfall = None
    if prepared.undecided is not None:
        shortfall = _chosen(
            loaded, cache.manifest.teacher.vocabulary, batches(samples), batches(prepared.undecided(samples))
        )
    kept = [_stored(each.answer.fields) for each in cached]
    codec, dtype = RowCodec(row=cache.manifest.row), cache.manifest.teacher.dtype
    return Audit(
        rows=sum(sample.rows for sample in samples),
        stored=max(_beyond_rounding(a, b, codec, dtype) for a, b in zip(kept, together, strict=True)),
        spread=max(_largest(_apart(a, b)) for a, b in zip(together, alone, strict=True)),
        same_weights=_same_weights(cache, loaded),
        chosen=shortfall,
    )


def _same_weights(cache: Cache, loaded: Teacher) -> bool | None:
    """See `Audit.same_weights`."""
    before, now = cache.manifest.teacher.engine, loaded.engine()
    if (before and before.name) != (now and now.name):
        return None
    return loaded.fingerprint() == cache.manifest.teacher.fingerprint


def _chosen(
    teacher: Teacher, vocabulary: int, batches: Iterable[TeacherBatch], undecided: Iterable[TeacherBatch]
) -> float:
    """Ask the teacher again which rows it chooses; see `Audit.chosen`.

    Args:
        vocabulary: count of its tokens.
        batches: the samples, with the rows that they have.
        undecided: the same batches as they were before.
    """
    largest = 0.0
    for known, batch in zip(batches, undecided, strict=True):
        if batch.choice is None:
            raise ValueError("nothing chooses the rows of this batch")
        entropy_N = entropies(teacher.rows(batch, ITS_LOGITS), vocabulary).astype(np.float64)
        is_kept_N = np.isin(batch.rows_N.numpy(), known.rows_N.numpy())
        ends = np.cumsum(batch.choice.candidates)[:-1]
        for own_C, is_kept_C in zip(np.split(entropy_N, ends), np.split(is_kept_N, ends), strict=True):
            if not is_kept_C.all():
                highest, lowest = own_C[~is_kept_C].max(), own_C[is_kept_C].min()
                largest = max(largest, highest - lowest - (highest + lowest) * HALF_STEP)
    return float(largest)


def _stored(fields: dict[str, Array]) -> Array:
    """Return the stored logprobs as float64[N, K + 2]: the gold token, the tail if it is stored, the listed tokens if any.

    Empty slots are NaN. Of rows of one number each it is that number, float64[N, 1].
    """
    if "score" in fields:
        return fields["score"][:, None].astype(np.float64)
    columns = [fields["gold_logprob"][:, None]]
    if "tail_logmass" in fields:
        columns.append(fields["tail_logmass"][:, None])
    if "ids" in fields:
        columns.append(np.where(np.isneginf(fields["logprobs"]), np.nan, fields["logprobs"]))
    return np.concatenate([column.astype(np.float64) for column in columns], 1)


def _logprobs(
    teacher: Teacher,
    cache: Cache,
    batches: Iterable[TeacherBatch],
    cached: list[CachedSample],
) -> list[Array]:
    """Ask the teacher again; return the same columns as `_stored`, one array a sample."""
    row, vocabulary = cache.manifest.row, cache.manifest.teacher.vocabulary
    wants = ITS_LOGITS if LOGITS in teacher.gives else Wants(frozenset({TOP_LOGPROBS}), entries_of(row))
    out: list[Array] = [np.zeros(0)] * len(cached)
    for batch in announced(teacher, batches, wants):
        fields = [cached[index].answer.fields for index in batch.indices]
        columns = [
            _columns(
                chunk,
                {name: np.concatenate([each[name] for each in fields])[chunk.span] for name in fields[0]},
                vocabulary,
            )
            for chunk in teacher.rows(batch, wants)
        ]
        rows = np.split(torch.cat(columns).double().cpu().numpy(), np.cumsum(batch.counts)[:-1])
        for index, values in zip(batch.indices, rows, strict=True):
            out[index] = values
    return out


def _columns(chunk: RowChunk, stored: dict[str, Array], vocabulary: int) -> Tensor:
    """The same columns as `_stored`, of a few rows."""
    if chunk.top is not None:
        return _listed_columns(chunk.top, stored)
    if "score" in stored:
        return chunk.logits()[:, :1].float()
    logprobs_nV = torch.log_softmax(chunk.logits()[:, :vocabulary].float(), -1)
    columns = [logprobs_nV.gather(1, chunk.gold_n.clamp(min=0)[:, None])]
    if "ids" in stored:
        is_empty_nK = torch.from_numpy(np.isneginf(stored["logprobs"])).to(logprobs_nV.device)
        ids_nK = torch.from_numpy(stored["ids"].astype(np.int64)).to(logprobs_nV.device).masked_fill(is_empty_nK, 0)
        listed_nK = logprobs_nV.gather(1, ids_nK).masked_fill(is_empty_nK, torch.nan)
        if "tail_logmass" in stored:
            places_nK = ids_nK.masked_fill(is_empty_nK, vocabulary)
            outside_nV = torch.nn.functional.pad(logprobs_nV.exp(), (0, 1)).scatter_(1, places_nK, 0.0)
            columns.append(outside_nV.sum(-1, keepdim=True).log())
        columns.append(listed_nK)
    return torch.cat(columns, 1)


def _listed_columns(top: TopLogprobs, stored: dict[str, Array]) -> Tensor:
    """The same columns as `_stored`, from lists; a token that is not listed now is at most as probable as the last one is."""
    logprobs_nK = top.logprobs_nK.double()
    listed = torch.from_numpy(np.isfinite(stored["logprobs"])).to(logprobs_nK.device)
    ids_nK = torch.from_numpy(stored["ids"].astype(np.int64)).to(logprobs_nK.device)
    is_same_nKL = (ids_nK[:, :, None] == top.ids_nK[:, None, :]) & torch.isfinite(logprobs_nK)[:, None, :]
    lowest_n = logprobs_nK.masked_fill(torch.isneginf(logprobs_nK), 0.0).amin(1)
    found_nK = logprobs_nK[:, None, :].masked_fill(~is_same_nKL, -torch.inf).amax(2)
    found_nK = torch.where(is_same_nKL.any(2), found_nK, lowest_n[:, None]).masked_fill(~listed, torch.nan)
    columns = [top.gold_logprob_n.double()[:, None], found_nK]
    if "tail_logmass" in stored:
        columns.insert(1, (1.0 - found_nK.exp().nansum(1, keepdim=True)).clamp(min=0.0).log())
    return torch.cat(columns, 1)


def _beyond_rounding(stored: Array, now: Array, codec: RowCodec, dtype: str) -> float:
    """Return the largest difference that rounding does not explain; of scores in the dtype of the teacher."""
    if "score" in codec.fields:
        return _largest(np.abs(stored - now) - np.abs(now) * STEPS.get(dtype, 0.0))
    allowed = codec.logprob_error(now)
    allowed[:, 0] = np.abs(now[:, 0]) * HALF_STEP
    if "tail_logmass" in codec.fields:
        allowed[:, 1] = codec.tail_error()
        # a mass below the smallest that the codec can hold is stored as that smallest mass
        now = now.copy()
        now[:, 1] = np.where(np.isneginf(now[:, 1]), now[:, 1], np.maximum(now[:, 1], codec.lowest_tail))
    is_empty = np.isnan(stored)
    with np.errstate(invalid="ignore"):
        difference = np.where(is_empty | (stored == now), 0.0, np.abs(stored - now) - allowed)
    return _largest(difference)


def _apart(a: Array, b: Array) -> Array:
    """Return the absolute differences; two impossible tokens (both -inf) have difference 0."""
    with np.errstate(invalid="ignore"):
        return np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))


def _largest(differences: Array) -> float:
    """Return the largest difference. NaN counts as infinite: it means that one side is impossible and the other is not."""
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0.0))
