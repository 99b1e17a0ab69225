"""How the rows of a part are made from another cache's: copied, cut shorter, or made from hidden states.

Axes: N rows, K listed, D channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.batching import by_length
from logitstore.cache.part_writer import PartWriter
from logitstore.cache.reader import Cache, Part
from logitstore.chunks import chunk_rows
from logitstore.codecs.answer import normalised
from logitstore.decode import Decoder, decoder_of
from logitstore.fidelity import FidelityCheck, Truth
from logitstore.fields import RowInfo
from logitstore.head import Head
from logitstore.keep import Keep
from logitstore.score import RowChunk, TeacherBatch, split
from logitstore.tails import LatentTail
from logitstore.targets import Targets, dense_logprobs
from logitstore.types import Answer, Array, Asked


@dataclass(kw_only=True)
class Recoder:
    """How the rows of a part are made from the source's: this one copies them as they are."""

    source: Cache
    shared: dict[str, Tensor]

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter) -> None:
        """Write and commit one part."""
        for index in range(len(samples)):
            span = part.span(index)
            writer.write(index, Answer(fields={name: np.asarray(array[span]) for name, array in part.fields.items()}))
        writer.commit(part.record.fidelity, part.record.sums)


@dataclass(kw_only=True)
class Relist(Recoder):
    """Lists fewer tokens, or stores them more coarsely; the mass of those left out goes to the tail."""

    row: RowInfo
    old: Decoder
    new: Decoder
    share: float

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter) -> None:
        check = FidelityCheck(self.new, self.share, against="source")
        for index, sample in enumerate(samples):
            stored = {name: np.array(array[part.span(index)]) for name, array in part.fields.items()}
            kept = relisted(self.old.codec.decode(stored), self.row.sparsifier.k)
            encoded = self.new.codec.encode(kept)
            for name in ("sketch", "gold_logprob", "entropy"):
                if name in self.new.codec.fields:
                    encoded[name] = stored[name]
            # neither an empty slot nor a row without a gold token is a match
            is_gold_NK = (kept["ids"] == sample.gold_N[:, None]) & ~np.isneginf(kept["logprobs"])
            kept |= {"top1": kept["ids"][:, 0], "gold_listed": is_gold_NK.any(1)}
            writer.write(index, Answer(fields=encoded), Answer(fields=kept))
            self._look(check, sample, stored, encoded)
        writer.commit(check.take())

    def _look(self, check: FidelityCheck, sample: Asked, stored: dict[str, Array], encoded: dict[str, Array]) -> None:
        chosen = np.flatnonzero(check.chosen_of(sample.key, sample.rows))
        size = chunk_rows(self.row.vocabulary, "cpu")
        for places in (chosen[first : first + size] for first in range(0, len(chosen), size)):
            was = self.old({name: torch.from_numpy(value[places]) for name, value in stored.items()})
            if isinstance(was, Targets):
                check.add_encoded(
                    Truth.of(dense_logprobs(was), was.tail.vocabulary),
                    {name: value[places] for name, value in encoded.items()},
                )


def relisted(answer: dict[str, Any], k: int) -> dict[str, Array]:
    """The first k entries of every row, with the tail mass that they leave; floats in nats."""
    exact = (answer["logprobs"].astype(np.float64), answer["tail_logmass"].astype(np.float64))
    logprobs_NK, tail_N = normalised(*exact)
    logprobs_NK = np.minimum(logprobs_NK, 0.0)
    dropped_N = np.exp(logprobs_NK[:, k:]).sum(1)
    with np.errstate(divide="ignore"):
        tail_N = np.log(np.minimum(np.exp(tail_N) + dropped_N, 1.0))
    return {**answer, "ids": answer["ids"][:, :k], "logprobs": logprobs_NK[:, :k], "tail_logmass": tail_N}


@dataclass(kw_only=True)
class FromHidden(Recoder):
    """Hidden states and the head say what the teacher said: rows are made as in a dump."""

    row: RowInfo
    head: Head
    decoder: Decoder
    share: float
    batch_tokens: int

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter) -> None:
        new = Decoder(self.row, self.shared)
        check = FidelityCheck(new, self.share, against="source")
        keep = Keep.of(self.row, self.shared, check)
        for batch, spans in _batches(part, samples, self.batch_tokens):
            stored = {name: np.concatenate([array[span] for span in spans]) for name, array in part.fields.items()}
            chunks = [keep(batch, chunk) for chunk in hidden_chunks(self.decoder, self.head, stored, batch.gold_N)]
            kept = {name: torch.cat([chunk[name] for chunk in chunks]).numpy() for name in chunks[0]}
            kept |= {name: stored[name] for name in ("gold_logprob", "entropy")}
            facts = dict(split(batch, kept))
            for index, answer in split(batch, new.codec.encode(kept)):
                writer.write(index, answer, facts[index])
        writer.commit(check.take())


def _batches(part: Part, samples: Sequence[Asked], batch_tokens: int) -> Iterator[tuple[TeacherBatch, list[slice]]]:
    """Samples with the rows of each; nobody is asked, so the batches have no inputs."""
    for indices in by_length(np.array([sample.length for sample in samples]), batch_tokens):
        some = [samples[index] for index in indices]
        gold_N = torch.from_numpy(np.concatenate([sample.gold_N for sample in some]))
        batch = TeacherBatch(indices=indices, samples=some, inputs={}, rows_N=torch.arange(len(gold_N)), gold_N=gold_N)
        yield batch, [part.span(index) for index in indices]


def hidden_chunks(decoder: Decoder, head: Head, stored: dict[str, Array], gold_N: Tensor) -> Iterator[RowChunk]:
    """The logits of stored hidden states, a few rows at a time."""
    size = chunk_rows(len(head.base_V), "cpu")
    for first in range(0, len(gold_N), size):
        span = slice(first, min(first + size, len(gold_N)))
        targets = decoder({name: torch.from_numpy(value[span]) for name, value in stored.items()})
        hidden_nD = targets.latent_NR if isinstance(targets, Targets) else None
        if hidden_nD is None:
            raise ValueError("these rows hold no hidden states")
        yield RowChunk(span=span, logits_nV=head.logits(hidden_nD), hidden_nD=hidden_nD, gold_n=gold_N[span])


def recoder_of(source: Cache, row: RowInfo, shared: dict[str, Tensor]) -> Recoder:
    """The way from the source's rows to the target's."""
    if is_copy(source.manifest.row, row):
        return Recoder(source=source, shared=shared)
    share = source.manifest.fidelity_rows / source.manifest.rows
    decoder = decoder_of(source)
    if not isinstance(decoder.tail, LatentTail) or source.manifest.tail.shape != "head":
        new = Decoder(row, shared)
        return Relist(source=source, shared=shared, row=row, old=decoder, new=new, share=share)
    return FromHidden(
        source=source,
        shared=shared,
        row=row,
        head=head_of(decoder.tail),
        decoder=decoder,
        share=share,
        batch_tokens=source.manifest.batch_tokens,
    )


def is_copy(old: RowInfo, new: RowInfo) -> bool:
    """Whether only the layout changes."""
    same_tail = (new.tail.shape, new.tail.bytes) == (old.tail.shape, old.tail.bytes)
    same_values = new.codec.model_copy(update={"layout": old.codec.layout}) == old.codec
    return new.sparsifier == old.sparsifier and same_tail and same_values


def head_of(tail: LatentTail) -> Head:
    """The head behind a tail of hidden states; float32 once, and not in every chunk."""
    return Head(tail.weight_VR.float(), tail.base_V, 1.0, tail.cap)
