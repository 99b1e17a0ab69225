"""Make the rows of a part from other caches': copy them, cut them shorter, or make them anew from whole distributions.

Axes: N rows, K listed, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.convert.row_source import HiddenStates, RowSource, batches
from logitstore.core.types import Answer, Array, Asked
from logitstore.dump.sparsify.fidelity import FidelityCheck, Truth
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.format.codecs.answer import normalised
from logitstore.format.row import RowInfo
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.writer import PartWriter
from logitstore.targets.chunks import chunk_rows
from logitstore.targets.decoder import Decoder, decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import split
from logitstore.targets.targets import Targets

ReportRows = Callable[[int], None]
"""Receives the count of rows that were written since the last call."""


class Recoder:
    """Makes the rows of a part from the source's; this one copies them as they are."""

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter, report_rows: ReportRows) -> None:
        """Write and commit one part.

        Args:
            part: of the source.
            samples: all of its samples.
            writer: of the part to be.
            report_rows: is called now and then.
        """
        for index, sample in enumerate(samples):
            writer.write(index, Answer(fields={name: np.asarray(array) for name, array in part.stored(index).items()}))
            report_rows(sample.rows)
        writer.commit(part.record.fidelity, part.record.sums, part.record.chosen)


@dataclass(kw_only=True)
class Relist(Recoder):
    """Lists fewer tokens, or stores them more coarsely; the mass of those left out goes to the tail.

    Attributes:
        row: what a row is to hold.
        old, new: the decoders of the source and of the cache to be.
        share: the share of the rows whose error is measured.
    """

    row: RowInfo
    old: Decoder
    new: Decoder
    share: float

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter, report_rows: ReportRows) -> None:
        check = FidelityCheck(self.new, self.share, against="source")
        for index, sample in enumerate(samples):
            stored = {name: np.array(array) for name, array in part.stored(index).items()}
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
            report_rows(sample.rows)
        writer.commit(check.take(), chosen=part.record.chosen)

    def _look(self, check: FidelityCheck, sample: Asked, stored: dict[str, Array], encoded: dict[str, Array]) -> None:
        chosen = np.flatnonzero(check.chosen_of(sample.key, sample.rows))
        size = chunk_rows(self.row.vocabulary, "cpu")
        for places in (chosen[first : first + size] for first in range(0, len(chosen), size)):
            before = self.old({name: torch.from_numpy(value[places]) for name, value in stored.items()})
            if isinstance(before, Targets):
                check.add_encoded(
                    Truth.of(dense_logprobs(before), before.tail.vocabulary),
                    {name: value[places] for name, value in encoded.items()},
                )


def relisted(answer: dict[str, Any], k: int) -> dict[str, Array]:
    """Return the first k entries of every row, with the tail mass that they leave; floats in nats."""
    exact = (answer["logprobs"].astype(np.float64), answer["tail_logmass"].astype(np.float64))
    logprobs_NK, tail_N = normalised(*exact)
    logprobs_NK = np.minimum(logprobs_NK, 0.0)
    dropped_N = np.exp(logprobs_NK[:, k:]).sum(1)
    with np.errstate(divide="ignore"):
        tail_N = np.log(np.minimum(np.exp(tail_N) + dropped_N, 1.0))
    return {**answer, "ids": answer["ids"][:, :k], "logprobs": logprobs_NK[:, :k], "tail_logmass": tail_N}


@dataclass(kw_only=True)
class Remake(Recoder):
    """Makes rows from whole distributions, as a dump does.

    Attributes:
        row: what a row is to hold.
        shared: what all rows share of their tails.
        distributions: of the source's rows.
        share: the share of the rows whose error is measured.
    """

    row: RowInfo
    shared: dict[str, Tensor]
    distributions: RowSource
    share: float

    def write(self, part: Part, samples: Sequence[Asked], writer: PartWriter, report_rows: ReportRows) -> None:
        new = Decoder(self.row, self.shared)
        check = FidelityCheck(new, self.share, against="source")
        keep = RowReducer.of(self.row, self.shared, check)
        for batch in batches(samples, list(range(len(samples))), self.row.vocabulary):
            chunks, stored = self.distributions(part, batch)
            made = [keep(batch, chunk) for chunk in chunks]
            kept = {name: torch.cat([each[name] for each in made]).numpy() for name in made[0]} | stored
            facts = dict(split(batch, kept))
            for index, answer in split(batch, new.codec.encode(kept)):
                writer.write(index, answer, facts[index])
            report_rows(len(batch.gold_N))
        writer.commit(check.take(), chosen=part.record.chosen)


def recoder_of(source: Cache, row: RowInfo, shared: dict[str, Tensor]) -> Recoder:
    """Return what makes such rows of the source's."""
    if is_copy(source.manifest.row, row):
        return Recoder()
    share = source.manifest.fidelity_rows / source.manifest.rows
    hidden = HiddenStates.of(source)
    if hidden is None:
        return Relist(row=row, old=decoder_of(source), new=Decoder(row, shared), share=share)
    return Remake(row=row, shared=shared, distributions=hidden, share=share)


def is_copy(old: RowInfo, new: RowInfo) -> bool:
    """Return True where only the layout changes."""
    same_tail = (new.tail.shape, new.tail.bytes) == (old.tail.shape, old.tail.bytes)
    same_values = new.codec.model_copy(update={"layout": old.codec.layout}) == old.codec
    return new.sparsifier == old.sparsifier and same_tail and same_values
