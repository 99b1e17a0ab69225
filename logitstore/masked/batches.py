"""Masked texts laid into batches, as the teacher was shown them.

Axes: M texts, T tokens, N rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.masked.sample import info_of, laid, places_of
from logitstore.masked.stored import masked_of
from logitstore.store.cache import Cache
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, gathered_features, located_samples


class MaskedCollator:
    """Lays masked texts into batches; see `logitstore.train.loader.collate.Collator`.

    Args:
        cache: to read.
        packed: must be False.
        taps: of the cache, whose features come too.
        weights: float32, what the rows of each of the cache's samples count; None where all count alike.
        bytes_per_batch: of the stored rows; not used here.

    Raises:
        BadInput: texts are to be packed.
    """

    def __init__(
        self, cache: Cache, *, packed: bool, taps: Sequence[Tap], weights: Array | None, bytes_per_batch: int
    ) -> None:
        if packed:
            raise BadInput(f"{cache.path}: masked texts cannot be packed. Leave that out.")
        self._cache, self._taps, self._weights = cache, taps, weights
        self._pad = info_of(cache.manifest).pad

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        located = located_samples(self._cache, samples_M)
        spans = [part.span(place) for part, place in located]
        texts = [masked_of(part.samples).sample(place) for part, place in located]
        counts_M = np.array([text.rows for text in texts], np.int64)
        rows = int(counts_M.sum())
        inputs = laid([text.input_T for text in texts], self._pad)
        places_N = places_of([text.positions_N for text in texts], inputs["input_ids"].shape[1])
        weights_N = None
        if self._weights is not None:
            weights_N = torch.from_numpy(np.repeat(self._weights[samples_M].astype(np.float32), counts_M))
        return Batch(
            inputs={name: torch.from_numpy(value) for name, value in inputs.items()},
            rows=torch.from_numpy(places_N),
            row_mask=torch.ones(rows, dtype=torch.bool),
            answer=gathered_answers(self._cache, located, spans, rows),
            gold=torch.from_numpy(np.concatenate([text.gold_N for text in texts])),
            samples=torch.from_numpy(np.array(samples_M, np.int64)),
            counts=torch.from_numpy(counts_M),
            features=gathered_features(self._taps, located, spans, rows),
            weight=weights_N,
        )
