"""Give the whole distribution of every row of some samples, a few rows at a time, from what caches keep of them.

Axes: N rows (n of a chunk), D channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from logitstore.core.progress import amount
from logitstore.core.types import Array, Asked
from logitstore.errors import CacheMismatch
from logitstore.models.head import LinearHead
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.samples import stored_samples
from logitstore.targets.chunks import chunk_rows
from logitstore.targets.decoder import Decoder, decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import RowBatch, RowChunk
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import Targets

Fields = dict[str, Array]
"""Stored arrays of some rows, by name, with N as first axis."""


class RowSource(Protocol):
    """A source of rows, for a cache that is made from caches."""

    def __call__(self, part: Part, batch: RowBatch) -> tuple[Iterator[RowChunk], Fields]:
        """Return the logits of some samples of a part, and fields that are stored and replace those that the logits give."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class HiddenStates:
    """The teacher's own distributions: its stored hidden states, put through its head.

    Attributes:
        decoder: of the cache that keeps the hidden states.
        head: of the teacher.
    """

    decoder: Decoder
    head: LinearHead

    @classmethod
    def of(cls, cache: Cache) -> HiddenStates | None:
        """Return the distributions of a cache; None where it keeps no hidden states."""
        if not cache.manifest.sparsifier.kind.keeps_hidden:
            return None
        decoder = decoder_of(cache)
        if not isinstance(decoder.tail, LatentTail):
            raise ValueError("hidden states without a head")
        # float32 once, and not in every chunk
        head = replace(decoder.tail.head, weight_VD=decoder.tail.head.weight_VD.float())
        return cls(decoder=decoder, head=head)

    def __call__(self, part: Part, batch: RowBatch) -> tuple[Iterator[RowChunk], Fields]:
        stored = _joined([(part, index) for index in batch.indices])
        return self._chunks(stored, batch.gold_N), {name: stored[name] for name in ("gold_logprob", "entropy")}

    def _chunks(self, stored: Fields, gold_N: Tensor) -> Iterator[RowChunk]:
        for span in row_spans(len(gold_N), self.head.vocabulary):
            targets = self.decoder(tensors_of(stored, span))
            hidden_nD = targets.latent_NR if isinstance(targets, Targets) else None
            if hidden_nD is None:
                raise ValueError("these rows hold no hidden states")
            yield RowChunk(span=span, logits_nV=self.head.logits(hidden_nD), hidden_nD=hidden_nD, gold_n=gold_N[span])


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean:
    """The weighted mean of the distributions of several teachers on the same samples, probability by probability:

        p(v) = sum_i weights_i p_i(v)

    (the arithmetic mean of Hinton et al. 2015, section 1; with equal weights the teacher of MEAL V2, Shen and Savvides 2020).
    It is taken as log sum exp, so that improbable tokens keep their digits.

    Attributes:
        first: the cache whose parts are gone through.
        sources: the caches that have a weight, with their decoders and the logarithms of their weights; all are complete.
    """

    first: Cache
    sources: Sequence[tuple[Cache, Decoder, float]]

    @classmethod
    def of(cls, caches: Sequence[Cache], weights: Sequence[float]) -> Mean:
        """Return the mean of caches of the same samples. The weights sum to 1; a cache with the weight 0 is not read."""
        weighted = [(cache, weight) for cache, weight in zip(caches, weights, strict=True) if weight > 0]
        return cls(
            first=caches[0], sources=[(cache, decoder_of(cache), math.log(weight)) for cache, weight in weighted]
        )

    def __call__(self, part: Part, batch: RowBatch) -> tuple[Iterator[RowChunk], Fields]:
        """Raises CacheMismatch when a cache holds another sample in the place of one of these."""
        start = self.first.first_sample(part.number)
        numbers = [start + index for index in batch.indices]
        stored = [same_rows(cache, numbers, batch.samples) for cache, _, _ in self.sources]
        # every cache knows the gold token's logprob exactly, whatever it lists
        of_gold = [
            log_weight + fields["gold_logprob"].astype(np.float64)
            for (_, _, log_weight), fields in zip(self.sources, stored, strict=True)
        ]
        with np.errstate(invalid="ignore"):  # NaN of a row without a gold token
            gold_logprob_N = np.minimum(np.logaddexp.reduce(of_gold), 0.0)
        return self._chunks(stored, batch.gold_N), {"gold_logprob": gold_logprob_N}

    def _chunks(self, stored: list[Fields], gold_N: Tensor) -> Iterator[RowChunk]:
        for span in row_spans(len(gold_N), self.first.manifest.teacher.vocabulary):
            mean_nV = None
            for (_, decoder, log_weight), fields in zip(self.sources, stored, strict=True):
                targets = decoder(tensors_of(fields, span))
                if not isinstance(targets, Targets):
                    raise TypeError("random samples have no whole distribution")
                weighted_nV = dense_logprobs(targets).add_(log_weight)
                mean_nV = weighted_nV if mean_nV is None else torch.logaddexp(mean_nV, weighted_nV)
            if mean_nV is None:
                raise ValueError("a mean of nothing")
            yield RowChunk(span=span, logits_nV=mean_nV, hidden_nD=None, gold_n=gold_N[span])


def batches(samples: Sequence[Asked], indices: list[int], vocabulary: int) -> Iterator[RowBatch]:
    """Yield samples in their order, as many together as have the rows of one chunk, and at least one.

    Args:
        samples: of a part.
        indices: their numbers in it.
        vocabulary: columns of a chunk.
    """
    most = chunk_rows(vocabulary, "cpu")
    first = rows = 0
    for place, sample in enumerate(samples):
        if place > first and rows + sample.rows > most:
            yield _batch(samples[first:place], indices[first:place])
            first, rows = place, 0
        rows += sample.rows
    if samples:
        yield _batch(samples[first:], indices[first:])


def _batch(samples: Sequence[Asked], indices: list[int]) -> RowBatch:
    gold_N = torch.from_numpy(np.concatenate([sample.gold_N for sample in samples]))
    return RowBatch(indices=indices, samples=list(samples), gold_N=gold_N)


def same_rows(cache: Cache, numbers: list[int], samples: Sequence[Asked]) -> Fields:
    """Return what a cache stores about samples that another one has under the same numbers.

    Raises:
        CacheMismatch: it holds another sample in the place of one of these.
    """
    places, stored = [cache.locate(number) for number in numbers], stored_samples(cache.manifest)
    for number, sample, (part, index) in zip(numbers, samples, places, strict=True):
        other = part.samples.sample(index)
        if other.key == sample.key and (how := stored.difference(other, sample)):
            raise CacheMismatch(f"{cache.path}: {how} than that of the first cache. Dump again.")
        if (other.key, other.rows) != (sample.key, sample.rows):
            raise CacheMismatch(
                f"{cache.path}: its sample {number} has the key {other.key} and {amount(other.rows, 'row')}, not {sample.key} "
                f"and {sample.rows}, although the data have the same fingerprint. Run `logitstore verify` on each cache."
            )
    return _joined(places)


def _joined(places: Sequence[tuple[Part, int]]) -> Fields:
    """Return what is stored about the rows of some samples, one sample after the other."""
    pieces = [part.stored(index) for part, index in places]
    return {name: np.concatenate([fields[name] for fields in pieces]) for name in pieces[0]}


def row_spans(rows: int, vocabulary: int) -> Iterator[slice]:
    """Yield the rows that are decoded together, as whole distributions of so many tokens."""
    size = chunk_rows(vocabulary, "cpu")
    return (slice(first, min(first + size, rows)) for first in range(0, rows, size))


def tensors_of(stored: Fields, span: slice | Array) -> dict[str, Tensor]:
    """Return some of the stored rows, a span of them or those at some places, as tensors."""
    return {name: torch.from_numpy(value[span]) for name, value in stored.items()}
