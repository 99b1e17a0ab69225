"""Each row from one of several caches: which one, and its bytes or its distribution.

Axes: C caches, N rows (n of a chunk), K listed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logitstore.convert.row_source import Fields, batches, row_spans, same_rows, tensors_of
from logitstore.convert.rows import Recoder, ReportRows
from logitstore.core.types import Array, Asked, ChosenBy
from logitstore.format.codecs.answer import normalised
from logitstore.format.part_record import SOURCE, Fidelity
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.writer import PartWriter
from logitstore.targets.decoder import Decoder, decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import RowBatch, RowChunk, split
from logitstore.targets.targets import Targets


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """The choice of a cache for each row of samples that all of them hold.

    By gold it is the rule of Fantastic Gains (Roth et al. 2024) with labels, by confidence the one without. What is compared is
    what the caches store: `gold_logprob` and `entropy` are the teacher's own, of its whole distribution, rounded to float16;
    the largest probability is that of the first listed token, with the mass outside of the list as it is stored, also where
    the tail is left out.

    Attributes:
        by: what decides.
        sources: the caches with their decoders, C of them; all are complete and hold the same samples.
    """

    by: ChosenBy
    sources: Sequence[tuple[Cache, Decoder]]

    @classmethod
    def of(cls, by: ChosenBy, caches: Sequence[Cache]) -> Choice:
        """Return the choice among caches of the same samples."""
        return cls(by=by, sources=[(cache, decoder_of(cache)) for cache in caches])

    def stored(self, part: Part, batch: RowBatch) -> list[Fields]:
        """Return what each cache stores about the rows of some samples of a part of the first one.

        Raises:
            CacheMismatch: a cache holds another sample in the place of one of these.
        """
        start = self.sources[0][0].first_sample(part.number)
        numbers = [start + index for index in batch.indices]
        return [same_rows(cache, numbers, batch.samples) for cache, _ in self.sources]

    def __call__(self, stored: Sequence[Fields]) -> Array:
        """Return int64[N], the number of the cache for each row; of equals the first, also where none knows a gold token."""
        scores = [self._score(decoder, fields) for (_, decoder), fields in zip(self.sources, stored, strict=True)]
        # NaN is the gold logprob of a row without a gold token
        source_N: Array = np.argmax(np.nan_to_num(np.stack(scores), nan=-np.inf, neginf=-np.inf), 0)
        return source_N

    def _score(self, decoder: Decoder, fields: Fields) -> Array:
        """Return float64[N], the larger the better."""
        if self.by == "gold":
            return fields["gold_logprob"].astype(np.float64)
        if self.by == "entropy":
            return -fields["entropy"].astype(np.float64)
        return _highest(decoder, fields)[0].astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowByRow:
    """The distribution of each row, decoded from the cache that is chosen for it; a `RowSource`."""

    choice: Choice

    def __call__(self, part: Part, batch: RowBatch) -> tuple[Iterator[RowChunk], Fields]:
        """Raises CacheMismatch when a cache holds another sample in the place of one of these."""
        stored = self.choice.stored(part, batch)
        source_N = self.choice(stored)
        scores = {name: _picked([fields[name] for fields in stored], source_N) for name in ("gold_logprob", "entropy")}
        return self._chunks(stored, source_N, batch.gold_N), scores | {SOURCE: source_N}

    def _chunks(self, stored: list[Fields], source_N: Array, gold_N: Tensor) -> Iterator[RowChunk]:
        vocabulary = self.choice.sources[0][0].manifest.teacher.vocabulary
        for span in row_spans(len(gold_N), vocabulary):
            source_n = source_N[span]
            logits_nV = torch.empty(len(source_n), vocabulary)
            for number in np.unique(source_n).tolist():
                places = np.flatnonzero(source_n == number)
                decoder, fields = self.choice.sources[number][1], stored[number]
                targets = decoder(tensors_of(fields, places + span.start))
                if not isinstance(targets, Targets):
                    raise TypeError("random samples have no whole distribution")
                logits_nV[torch.from_numpy(places)] = dense_logprobs(targets)
            yield RowChunk(span=span, logits_nV=logits_nV, hidden_nD=None, gold_n=gold_N[span])


@dataclass(kw_only=True)
class Pick(Recoder):
    """Copies the stored bytes of each row from the cache that is chosen for it; all caches have one form of row and share the
    same tensors."""

    choice: Choice

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter, report_rows: ReportRows) -> None:
        first, decoder = self.choice.sources[0]
        for batch in batches(samples, list(range(len(samples))), first.manifest.teacher.vocabulary):
            stored = self.choice.stored(part, batch)
            source_N = self.choice(stored)
            fields = {name: _picked([each[name] for each in stored], source_N) for name in stored[0]}
            facts = _facts(decoder, fields, batch.gold_N.numpy()) | {SOURCE: source_N}
            of_sample = dict(split(batch, facts))
            for index, answer in split(batch, fields):
                writer.write(index, answer, of_sample[index])
            report_rows(len(source_N))
        writer.commit(Fidelity(against="source"))


def _picked(of_caches: Sequence[Array], source_N: Array) -> Array:
    """Return the rows of the chosen caches."""
    picked_N = of_caches[0].copy()
    for number, array in enumerate(of_caches[1:], 1):
        picked_N[source_N == number] = array[source_N == number]
    return picked_N


def _facts(decoder: Decoder, fields: Fields, gold_N: Array) -> Fields:
    """Return what is counted of stored rows (`FACTS` of `logitstore.format.part_record`)."""
    answer = decoder.codec.decode(fields)
    facts = {name: np.asarray(answer[name]) for name in ("gold_logprob", "entropy", "tail_logmass") if name in answer}
    if decoder.row.sparsifier.kind.keeps_ids:
        # neither an empty slot nor a row without a gold token is a match
        is_gold_NK = (answer["ids"] == gold_N[:, None]) & ~np.isneginf(answer["logprobs"]) & (gold_N >= 0)[:, None]
        return facts | {"top1": answer["ids"][:, 0], "gold_listed": is_gold_NK.any(1)}
    return facts | {"top1": _highest(decoder, fields)[1], "gold_listed": gold_N >= 0}


def _highest(decoder: Decoder, fields: Fields) -> tuple[Array, Array]:
    """Return float[N], the logprob of the most probable token of each row, nats, and int64[N], which token it is."""
    if decoder.row.sparsifier.kind.keeps_ids:
        answer = decoder.codec.decode({name: fields[name] for name in ("ids", "logprobs", "tail_logmass")})
        logprobs_NK, _ = normalised(answer["logprobs"].astype(np.float64), answer["tail_logmass"].astype(np.float64))
        return logprobs_NK[:, 0], answer["ids"][:, 0]
    found = []
    for span in row_spans(len(fields["entropy"]), decoder.row.vocabulary):
        targets = decoder(tensors_of(fields, span))
        if not isinstance(targets, Targets):
            raise TypeError("random samples have no most probable token")
        found.append(dense_logprobs(targets).max(-1))
    return torch.cat([each.values for each in found]).numpy(), torch.cat([each.indices for each in found]).numpy()
