"""Texts with vectors laid into batches, in the cache's tokens or in those of a student's own tokenizer.

Axes: M texts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from logitstore.classification.batches import Reading
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, gathered_features, located_samples


class EmbeddedCollator:
    """Lays texts with vectors into batches; see `logitstore.train.loader.collate.Collator`.

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
            raise BadInput(f"{cache.path}: texts with one vector each cannot be packed. Leave that out.")
        self._cache, self._taps, self._weights = cache, taps, weights
        self._reading = reading or Reading.stored(cache)

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        located = located_samples(self._cache, samples_M)
        spans, rows = [part.span(place) for part, place in located], len(located)
        weight = None if self._weights is None else torch.from_numpy(self._weights[samples_M].astype(np.float32))
        return Batch(
            inputs={name: torch.from_numpy(value) for name, value in self._reading.inputs(located).items()},
            rows=torch.arange(rows),
            row_mask=torch.ones(rows, dtype=torch.bool),
            answer=gathered_answers(self._cache, located, spans, rows),
            gold=torch.full((rows,), -1),
            samples=torch.from_numpy(np.array(samples_M, np.int64)),
            counts=torch.ones(rows, dtype=torch.int64),
            features=gathered_features(self._taps, located, spans, rows),
            weight=weight,
        )
