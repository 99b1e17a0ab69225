"""A cache as a random-access source of NumPy arrays of fixed shapes, for grain and what else feeds JAX.

The module needs neither grain nor JAX. Made for grain 0.2.18.

Axes: N rows of a sample, L positions, K slots.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.place import Place
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.targets.decoder import decoder_of
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.targets import Targets
from logitstore.text.sample import Sample

NOTHING = -1e4
"""The logprob of an empty slot and of positions without a row: its exponential is 0, and 0 times it is 0, not NaN."""


class Source:
    """A source gives the samples of a cache of texts by their numbers: `grain.MapDataset.source(Source("my-cache"))`.

    A sample is a dict of arrays:

    - `input_ids` int32[L], padded on the right with 0; `attention_mask` int32[L], 1 on real tokens.
    - `row_mask` bool[L]: the teacher answered at this position, about the token that follows.
    - `labels` int32[L]: that token; -100 where there is no row. In a cache of chosen positions also the token after each other
      position that the data ask about.
    - `teacher_ids` int32[L, K] and `teacher_logprobs` float32[L, K], nats at temperature 1, by falling probability.
    - `teacher_tail_logmass` float32[L]: log of the mass of all other tokens. It and the listed logprobs sum to 1.

    Where there is nothing, logprobs are -1e4. A source can be pickled, so that worker processes open the cache themselves.
    """

    def __init__(
        self,
        cache: Cache | Place,
        *,
        length: int | None = None,
        k: int | None = None,
        samples: Array | None = None,
    ) -> None:
        """Open the cache; no row is read.

        Args:
            cache: the cache to read.
            length: L; by default the length of the longest sample.
            k: K; by default what the cache lists. Of a cache that lists no token or all of them it must be given.
            samples: numbers of the samples to give, as of a selection; without it all of them.

        Raises:
            BadInput: the cache has no lists of tokens, or a sample is longer than `length`.
        """
        self.cache = cache if isinstance(cache, Cache) else Cache(cache)
        self._samples = np.arange(len(self.cache)) if samples is None else np.asarray(samples, np.int64)
        if len(self.cache) and not isinstance(self.cache[0].sample, Sample):
            raise BadInput(f"{self.cache.path}: it is no cache of texts, and only texts have token ids.")
        info = self.cache.manifest.sparsifier
        vocabulary = self.cache.manifest.teacher.vocabulary
        if info.is_estimate:
            raise BadInput(
                f"{self.cache.path}: it holds random samples, not the most probable tokens. Use another preset."
            )
        self._decoder = decoder_of(self.cache)
        listed = info.k if info.kind.keeps_ids else None
        if listed is None and k is None:
            raise BadInput(f"{self.cache.path}: it lists no tokens by rank. Say how many to give, such as k=64.")
        self.k = min(k or listed or 1, vocabulary)
        longest = int(self.cache.lengths_of(self._samples).max(initial=1))
        self.length = length or longest
        if self.length < longest:
            raise BadInput(f"length={self.length}: there is a sample of {longest} tokens. Give at least that.")

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: Any) -> dict[str, Array]:
        part, number = self.cache.locate(int(self._samples[int(index)]))
        sample: Any = part.samples.sample(number)
        tokens, places = sample.tokens_T, sample.positions_N
        stored = {name: torch.from_numpy(np.array(value)) for name, value in part.stored(number).items()}
        ids_NK, logprobs_NK, tail_N = self._listed(self._decoder(stored))
        found = {
            "input_ids": np.zeros(self.length, np.int32),
            "attention_mask": np.zeros(self.length, np.int32),
            "row_mask": np.zeros(self.length, np.bool_),
            "labels": np.full(self.length, -100, np.int32),
            "teacher_ids": np.zeros((self.length, self.k), np.int32),
            "teacher_logprobs": np.full((self.length, self.k), NOTHING, np.float32),
            "teacher_tail_logmass": np.full(self.length, NOTHING, np.float32),
        }
        found["input_ids"][: len(tokens)] = tokens
        found["attention_mask"][: len(tokens)] = 1
        found["row_mask"][places] = True
        asked = places if sample.gold_T is None else np.flatnonzero(sample.gold_T)
        found["labels"][asked] = np.asarray(tokens)[asked + 1]
        found["teacher_ids"][places] = ids_NK.masked_fill(logprobs_NK.isneginf(), 0).numpy()
        found["teacher_logprobs"][places] = logprobs_NK.clamp(min=NOTHING).numpy()
        found["teacher_tail_logmass"][places] = tail_N.clamp(min=NOTHING).numpy()
        return found

    def __repr__(self) -> str:
        # grain compares this when a pipeline is restored
        chosen = f"samples={len(self)}, length={self.length}, k={self.k}"
        return f"Source({self.cache.manifest.identity}, {chosen})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.cache.path, self.length, self.k, self._samples)

    def _listed(self, targets: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return int64[N, K], float32[N, K] and float32[N]: the most probable tokens, and the log of the mass of all others."""
        if not isinstance(targets, Targets):
            raise TypeError("random samples have no most probable tokens")
        if targets.is_ranked and self.k <= targets.ids_NK.shape[1]:
            ids_NK, logprobs_NK = targets.ids_NK[:, : self.k], targets.logprobs_NK[:, : self.k]
            rest_NK = torch.cat([targets.logprobs_NK[:, self.k :], targets.tail_logmass_N[:, None]], 1)
            return ids_NK, logprobs_NK, rest_NK.logsumexp(1)
        top = dense_logprobs(targets).topk(self.k)
        listed_N = top.values.logsumexp(1).clamp(max=-math.ulp(1.0))
        rest_N = (
            torch.log(-torch.expm1(listed_N))
            if self.k < targets.tail.vocabulary
            else listed_N.new_full((len(listed_N),), NOTHING)
        )
        return top.indices, top.values, rest_N


def _reopened(path: Place, length: int, k: int, samples: Array) -> Source:
    return Source(path, length=length, k=k, samples=samples)
