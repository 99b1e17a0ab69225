"""Classified texts laid into batches, in the cache's tokens or in those of a student's own tokenizer.

Axes: M texts, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from logitstore.classification.encode import Encoder
from logitstore.classification.sample import Padding, encoded_info_of
from logitstore.classification.stored import classified_of, encoded_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.part import Part
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, gathered_features, located_samples


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a student reads the texts of a cache.

    Attributes:
        padding: how its texts are laid side by side.
        encode: gives the texts in its own tokens; None takes the cache's.
        has_types: whether it is shown token types.
    """

    padding: Padding
    encode: Encoder | None = None
    has_types: bool = True

    @classmethod
    def stored(cls, cache: Cache) -> Reading:
        """Return what shows the cache's own tokens and types."""
        return cls(padding=Padding.of(encoded_info_of(cache.manifest)))

    def inputs(self, located: Sequence[tuple[Part, int]]) -> dict[str, Array]:
        """Return the inputs of a student for some texts, int64[B, T] each."""
        files = [(encoded_of(part.samples), place) for part, place in located]
        types: Sequence[Array | None]
        if self.encode is None:
            tokens, types = (
                [file.tokens_of(place) for file, place in files],
                [file.types_of(place) for file, place in files],
            )
        else:
            words = [file.texts_of(place) for file, place in files]
            pairs = [pair for _, pair in words if pair is not None]
            tokens, types = self.encode([text for text, _ in words], pairs or None)
        shown = [each for each in types if each is not None] if self.has_types else []
        return self.padding.laid(tokens, shown or None)


class ClassifiedCollator:
    """Lays classified texts into batches; see `logitstore.train.loader.collate.Collator`.

    Args:
        cache: to read.
        packed: must be False.
        taps: of the cache, whose features come too.
        weights: float32, what each of the cache's texts counts; None where all count alike.
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
            raise BadInput(f"{cache.path}: texts that are classified cannot be packed. Leave that out.")
        self._cache, self._taps, self._weights = cache, taps, weights
        self._reading = reading or Reading.stored(cache)

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        located = located_samples(self._cache, samples_M)
        spans, rows = [part.span(place) for part, place in located], len(located)
        weight = None if self._weights is None else torch.from_numpy(self._weights[samples_M].astype(np.float32))
        gold_M = np.array([classified_of(part.samples).label_S[place] for part, place in located], np.int64)
        return Batch(
            inputs={name: torch.from_numpy(value) for name, value in self._reading.inputs(located).items()},
            rows=torch.arange(rows),
            row_mask=torch.ones(rows, dtype=torch.bool),
            answer=gathered_answers(self._cache, located, spans, rows),
            gold=torch.from_numpy(gold_M),
            samples=torch.from_numpy(np.array(samples_M, np.int64)),
            counts=torch.ones(rows, dtype=torch.int64),
            features=gathered_features(self._taps, located, spans, rows),
            weight=weight,
        )
