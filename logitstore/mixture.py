"""Several caches as one stream of batches, each batch from one of them, as often as its weight says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
from torch import Tensor

from logitstore.batch import Batch
from logitstore.cache.order import permuted, salt_of
from logitstore.errors import BadInput
from logitstore.loader import Loader
from logitstore.stream import BatchStream
from logitstore.targets import AnyTargets
from logitstore.types import Array

LEAST_SHARE = 1 / 1024
"""Of all weights; an epoch of a mixture with a smaller one would be very long."""


class Mixture(BatchStream):
    """Batches of several loaders. An epoch lasts until each of them can be read once; the others begin anew meanwhile.

    In an epoch every loader comes as often as its weight says, in mixed order. Which loader a batch comes from, and which of
    its batches it is, depends on the epoch, the batch's number and the seed alone.
    """

    def __init__(
        self,
        loaders: list[Loader],
        weights: list[float],
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        ahead: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        """
        Args:
            loaders: of the caches, each with rank 0 of 1; ranks divide the mixture.
            weights: how often each is drawn from, relative to the others.
            seed: of the order in which they take turns.
            rank, world_size, workers, ahead, pin_memory: as of a `Loader`.

        Raises:
            BadInput: nothing to mix, or weights that are not positive or too small to come up.
        """
        if not loaders or len(loaders) != len(weights) or not all(0 < weight < np.inf for weight in weights):
            raise BadInput(f"weights {weights} of {len(loaders)} loaders: give each one positive weight.")
        if min(weights) < LEAST_SHARE * math.fsum(weights):
            raise BadInput(f"weights {weights}: the smallest is below a thousandth of their sum. Leave that cache out.")
        self._loaders, self._weights, self._seed = loaders, weights, seed
        self.count = sum(each.count for each in loaders)
        self.has_targets = all(each.has_targets for each in loaders)
        super().__init__(rank=rank, world_size=world_size, workers=workers, ahead=ahead, pin_memory=pin_memory)

    @cached_property
    def batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        whole = math.fsum(self._weights)
        needed = [each.batches * whole / weight for each, weight in zip(self._loaders, self._weights, strict=True)]
        return math.ceil(max(needed) - 1e-6)

    @cached_property
    def shares(self) -> list[int]:
        """How many batches of an epoch each loader gives."""
        return shares(self._weights, self.batches)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(each.longest for each in self._loaders)

    def targets(self, batch: Batch) -> AnyTargets:
        """What an objective takes, decoded as the cache that the batch comes from is written."""
        return self._loaders[batch.source].targets(batch)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """float32[N, D] of each tap of the loader that the batch comes from, decoded where the batch is."""
        return self._loaders[batch.source].features(batch)

    def _make(self, epoch: int, number: int) -> Batch:
        sources, turns = _epoch(tuple(self.shares), salt_of(self._seed, epoch, 0))
        source = int(sources[number])
        loader = self._loaders[source]
        index = epoch * self.shares[source] + int(turns[number])
        return replace(loader._make(*divmod(index, loader.batches)), source=source)


@lru_cache(maxsize=4)
def _epoch(counts: tuple[int, ...], salt: int) -> tuple[Array, Array]:
    """For every batch of an epoch the loader it comes from, and how many came from that loader before."""
    total = sum(counts)
    sources = np.repeat(np.arange(len(counts)), counts)[permuted(np.arange(total), total, salt)]
    turns = np.empty(total, np.int64)
    for source, count in enumerate(counts):
        turns[sources == source] = np.arange(count)
    return sources, turns


def shares(weights: list[float], places: int) -> list[int]:
    """How many of some places each weight has: the whole parts, and one more for the largest remainders."""
    exact = np.array(weights, np.float64) / math.fsum(weights) * places
    counts = np.floor(exact + 1e-6).astype(np.int64)  # what is whole but for rounding is whole
    for index in np.argsort(-(exact - counts), kind="stable")[: places - int(counts.sum())]:
        counts[index] += 1
    return [int(count) for count in counts]
