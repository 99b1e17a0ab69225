"""`verify --against-teacher`: ask the teacher again about a random share of the samples, and compare with what is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from logitstore.batching import by_length
from logitstore.cache.order import hashed, salt_of
from logitstore.cache.reader import Cache
from logitstore.errors import CacheMismatch
from logitstore.models import head_rows, load_config
from logitstore.score import collate, row_logits
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import Array, CachedSample, ModelRef, Progress, Sample, Step, no_progress

HALF_STEP = 2.0**-11
"""Relative half step of float16: what storing a logprob may change."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """Largest differences found, in nats.

    Attributes:
        rows: rows asked about again.
        stored: stored logprobs (listed, gold, tail) against the teacher's now, beyond what rounding to float16 explains.
        spread: the teacher's own logprobs of the same tokens, batched as in the dump against one sample at a time.
        same_weights: whether the teacher's weights are those the manifest names.
    """

    rows: int
    stored: float
    spread: float
    same_weights: bool

    @property
    def tolerance(self) -> float:
        """What `stored` may reach: three times the teacher's own spread, and at least a thousandth of a nat."""
        return max(3 * self.spread, 1e-3)

    @property
    def passed(self) -> bool:
        return math.isfinite(self.stored) and math.isfinite(self.spread) and self.stored <= self.tolerance


def audit(
    cache: Cache, teacher: str, share: float, seed: int = 0, device: str = "auto", progress: Progress = no_progress
) -> Audit:
    """Compare a random share of a cache with its teacher.

    Raises:
        ModelError: the teacher cannot be loaded.
        CacheMismatch: the cache holds no sample, or the teacher has a smaller vocabulary.
    """
    if not len(cache):
        raise CacheMismatch(f"{cache.path}: no part is committed, so there is nothing to compare.")
    model = ModelRef.parse(teacher)
    config = load_config(model)
    if head_rows(config) < cache.manifest.teacher.vocabulary:
        raise CacheMismatch(
            f"{model}: its head has {head_rows(config)} rows; {cache.path} names ids up to "
            f"{cache.manifest.teacher.vocabulary - 1}. Give the teacher that made it."
        )
    loaded = CausalTeacher(model, config, cache.manifest.teacher.dtype, device)
    count = max(round(share * len(cache)), 1)
    chosen = np.sort(np.argsort(hashed(np.arange(len(cache)), salt_of(seed, 0, 7)), kind="stable")[:count])
    found = [cache[int(index)] for index in chosen]
    samples = [each.sample for each in found]
    together = _logprobs(loaded, cache, samples, found, cache.manifest.batch_tokens, progress)
    alone = _logprobs(loaded, cache, samples, found, 1, progress)
    stored = [_stored(each.answer.fields) for each in found]
    return Audit(
        rows=sum(sample.rows for sample in samples),
        stored=max(_beyond_rounding(a, b) for a, b in zip(stored, together, strict=True)),
        spread=max(_largest(_apart(a, b)) for a, b in zip(together, alone, strict=True)),
        same_weights=loaded.fingerprint() == cache.manifest.teacher.fingerprint,
    )


def _stored(fields: dict[str, Array]) -> Array:
    """float64[N, K + 2]: listed logprobs, the gold token's, the tail's."""
    columns = [fields["logprobs"], fields["gold_logprob"][:, None], fields["tail_logmass"][:, None]]
    return np.concatenate([column.astype(np.float64) for column in columns], 1)


def _logprobs(
    teacher: CausalTeacher,
    cache: Cache,
    samples: list[Sample],
    found: list[CachedSample],
    budget: int,
    progress: Progress,
) -> list[Array]:
    """The same columns as `_stored`, from the teacher now."""
    vocabulary = cache.manifest.teacher.vocabulary
    out: list[Array] = [np.zeros(0)] * len(samples)
    batches = by_length(np.array([len(sample.tokens_T) for sample in samples]), budget)
    for done, indices in enumerate(batches, 1):
        batch = collate(samples, indices)
        ids_NK = torch.from_numpy(np.concatenate([found[index].answer["ids"] for index in indices]).astype(np.int64))
        columns = []
        first = 0
        for logits_nV, gold_n in row_logits(teacher, batch):
            logprobs_nV = torch.log_softmax(logits_nV[:, :vocabulary].float(), -1)
            ids_nK = ids_NK[first : first + len(gold_n)].to(logprobs_nV.device)
            tail_n = logprobs_nV.exp().scatter_(1, ids_nK, 0.0).sum(-1).log()
            columns.append(
                torch.cat([logprobs_nV.gather(1, ids_nK), logprobs_nV.gather(1, gold_n[:, None]), tail_n[:, None]], 1)
            )
            first += len(gold_n)
        rows = np.split(torch.cat(columns).double().cpu().numpy(), np.cumsum(batch.counts)[:-1])
        for index, values in zip(indices, rows, strict=True):
            out[index] = values
        progress(Step(stage="ask again", done=done, total=len(batches)))
    return out


def _beyond_rounding(stored: Array, now: Array) -> float:
    """The largest difference, less what rounding to float16 may have changed."""
    with np.errstate(invalid="ignore"):
        difference = np.where(stored == now, 0.0, np.abs(stored - now) - np.abs(now) * HALF_STEP)
    return _largest(difference)


def _apart(a: Array, b: Array) -> Array:
    """Distances; two impossible tokens do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, np.abs(a - b))


def _largest(differences: Array) -> float:
    """NaN, which comes from one side being impossible and the other not, counts as infinite."""
    return float(np.where(np.isnan(differences), np.inf, differences).max(initial=0.0))
