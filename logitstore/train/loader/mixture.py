"""Mix several caches into one stream of batches. Each batch comes from one cache, and each cache comes as often as its
weight says."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np
from torch import Tensor

from logitstore.core.order import permuted, salt_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.targets.targets import AnyTargets
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.stream import BatchStream

LEAST_SHARE = 1 / 1024
"""The least share of a weight in the sum of all weights; an epoch with a smaller one would be very long."""


class Mixture(BatchStream):
    """A mixture gives the batches of several loaders. An epoch lasts until each loader can be read once; shorter loaders
    start again meanwhile.

    In an epoch every loader comes as often as its weight says, in mixed order. The loader that a batch comes from, and the
    number of the batch in that loader, depend on the epoch, the batch's number and the seed alone.
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
        """Plan the order of the loaders; read no batch.

        Args:
            loaders: one loader for each cache, each with rank 0 of 1; the ranks divide the mixture.
            weights: how often to draw from each loader, relative to the others.
            seed: seed of the order in which the loaders take turns.
            rank, world_size, workers, ahead, pin_memory: as for a `Loader`.

        Raises:
            BadInput: there are no loaders, or a weight is not positive or too small to come up.
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
        """Number of batches of an epoch, over all ranks."""
        whole = math.fsum(self._weights)
        needed = [each.batches * whole / weight for each, weight in zip(self._loaders, self._weights, strict=True)]
        return math.ceil(max(needed) - 1e-6)

    @cached_property
    def shares(self) -> list[int]:
        """Number of batches of an epoch that each loader gives."""
        return shares(self._weights, self.batches)

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sample."""
        return max(each.longest for each in self._loaders)

    def targets(self, batch: Batch) -> AnyTargets:
        """Return the targets for an objective, decoded by the loader that the batch comes from."""
        return self._loaders[batch.source].targets(batch)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32[N, D] of each tap of the loader that the batch comes from, decoded on the batch's device."""
        return self._loaders[batch.source].features(batch)

    def _make(self, epoch: int, number: int) -> Batch:
        sources, turns = _epoch(tuple(self.shares), salt_of(self._seed, epoch, 0))
        source = int(sources[number])
        loader = self._loaders[source]
        index = epoch * self.shares[source] + int(turns[number])
        return replace(loader._make(*divmod(index, loader.batches)), source=source)


@lru_cache(maxsize=4)
def _epoch(counts: tuple[int, ...], salt: int) -> tuple[Array, Array]:
    """Return, for every batch of an epoch, the loader it comes from and how many batches came from that loader before."""
    total = sum(counts)
    sources = np.repeat(np.arange(len(counts)), counts)[permuted(np.arange(total), total, salt)]
    turns = np.empty(total, np.int64)
    for source, count in enumerate(counts):
        turns[sources == source] = np.arange(count)
    return sources, turns


def shares(weights: list[float], places: int) -> list[int]:
    """Return how many of some places each weight has: the whole parts, and one more for the largest remainders."""
    exact = np.array(weights, np.float64) / math.fsum(weights) * places
    counts = np.floor(exact + 1e-6).astype(
        np.int64
    )  # a number that is whole except for rounding errors counts as whole
    for index in np.argsort(-(exact - counts), kind="stable")[: places - int(counts.sum())]:
        counts[index] += 1
    return [int(count) for count in counts]
