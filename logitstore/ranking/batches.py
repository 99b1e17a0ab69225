"""Queries with their documents laid into batches: of pairs for cross-encoders, of single texts for bi-encoders.

Axes: M queries, N pairs, B = M + N texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from logitstore.classification.encode import Encoder
from logitstore.classification.sample import Padding
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.ranking.models import QUERY_OF
from logitstore.ranking.sample import info_of
from logitstore.ranking.stored import ranked_of
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, located_samples


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a student reads queries and documents.

    Attributes:
        padding: how its texts are laid side by side.
        encode: gives the texts in its own tokens; None takes the cache's, which are of pairs.
        has_types: whether it is shown token types.
        is_alone: whether it reads queries and documents each alone.
    """

    padding: Padding
    encode: Encoder | None = None
    has_types: bool = True
    is_alone: bool = False

    @classmethod
    def stored(cls, cache: Cache) -> Reading:
        """Return what shows the cache's own tokens and types."""
        data = info_of(cache.manifest)
        return cls(padding=Padding(token=data.pad, side=data.padding_side))

    def inputs(self, located: Sequence[tuple[Part, int]]) -> dict[str, Array]:
        """Return the inputs of a student for some queries, int64[N, T] each; of one that reads texts alone int64[B, T], the
        queries first, and `query_of` int64[N]."""
        files = [(ranked_of(part.samples), place) for part, place in located]
        if self.encode is None:
            tokens = [pair for file, place in files for pair in file.tokens_of(place)]
            stored = [pair for file, place in files for pair in file.types_of(place) or ()]
            return self.padding.laid(tokens, stored if stored and self.has_types else None)
        words = [file.texts_of(place) for file, place in files]
        documents = [document for _, own in words for document in own]
        if self.is_alone:
            tokens, _ = self.encode([*(query for query, _ in words), *documents], None)
            query_of_N = np.repeat(np.arange(len(words)), [len(own) for _, own in words])
            return self.padding.laid(tokens, None) | {QUERY_OF: query_of_N}
        tokens, types = self.encode([query for query, own in words for _ in own], documents)
        return self.padding.laid(tokens, types if self.has_types else None)


class RankedCollator:
    """Lays queries into batches, all documents of a query in one; see `logitstore.train.loader.collate.Collator`.

    Args:
        cache: to read.
        packed: must be False.
        taps: must be empty.
        weights: float32, what each of the cache's queries counts; None where all count alike.
        bytes_per_batch: of the stored rows; not used here.
        reading: how the student reads the texts; without it in the cache's tokens.

    Raises:
        BadInput: texts are to be packed.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        packed: bool,
        taps: Sequence[Tap],
        weights: Array | None,
        bytes_per_batch: int,
        reading: Reading | None = None,
    ) -> None:
        if packed:
            raise BadInput(f"{cache.path}: queries with documents cannot be packed. Leave that out.")
        self._cache, self._weights = cache, weights
        self._reading = reading or Reading.stored(cache)

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        located = located_samples(self._cache, samples_M)
        spans = [part.span(place) for part, place in located]
        counts_M = torch.tensor([span.stop - span.start for span in spans], dtype=torch.int64)
        rows = int(counts_M.sum())
        weight = None
        if self._weights is not None:
            weight = torch.from_numpy(self._weights[samples_M].astype(np.float32)).repeat_interleave(counts_M)
        gold_N = np.concatenate([ranked_of(part.samples).labels_of(place) for part, place in located])
        return Batch(
            inputs={name: torch.from_numpy(value) for name, value in self._reading.inputs(located).items()},
            rows=torch.arange(rows),
            row_mask=torch.ones(rows, dtype=torch.bool),
            answer=gathered_answers(self._cache, located, spans, rows),
            gold=torch.from_numpy(gold_N),
            samples=torch.from_numpy(np.array(samples_M, np.int64)),
            counts=counts_M,
            weight=weight,
        )
