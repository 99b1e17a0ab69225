"""Several caches as one stream of batches, each batch from one of them, as often as its weight says."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np

from logitstore.batch import Batch
from logitstore.cache.order import permuted, salt_of
from logitstore.errors import BadInput
from logitstore.loader import Loader, shares
from logitstore.stream import BatchStream
from logitstore.targets import AnyTargets
from logitstore.types import Array

TURN = 1024
"""Batches within which every cache comes exactly as often as its weight says, in mixed order."""


class Mixture(BatchStream):
    """Batches of several loaders. An epoch lasts until each of them was read at least once; the others begin anew meanwhile.

    Which loader a batch comes from, and which of its batches it is, depends on the batch's number and the seed alone.
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
        self._loaders, self._seed = loaders, seed
        self.count = sum(each.count for each in loaders)
        self._shares = shares(weights, TURN)
        if not all(self._shares):
            raise BadInput(
                f"weights {weights}: the smallest is below 1/{TURN} of their sum, so it would never come up."
            )
        super().__init__(rank=rank, world_size=world_size, workers=workers, ahead=ahead, pin_memory=pin_memory)

    @cached_property
    def batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        return max(-(-each.batches * TURN // share) for each, share in zip(self._loaders, self._shares, strict=True))

    @property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return max(each.longest for each in self._loaders)

    def targets(self, batch: Batch) -> AnyTargets:
        """What an objective takes, decoded as the cache that the batch comes from is written."""
        return self._loaders[batch.source].targets(batch)

    def _make(self, epoch: int, number: int) -> Batch:
        turn, place = divmod(epoch * self.batches + number, TURN)
        sources = _turn(tuple(self._shares), salt_of(self._seed, turn, 0))
        source = int(sources[place])
        index = turn * self._shares[source] + int((sources[:place] == source).sum())
        loader = self._loaders[source]
        return replace(loader._make(*divmod(index, loader.batches)), source=source)


@lru_cache(maxsize=8)
def _turn(counts: tuple[int, ...], salt: int) -> Array:
    """int64[TURN]: which loader each batch of a turn comes from."""
    sources = np.repeat(np.arange(len(counts)), counts)
    return sources[permuted(np.arange(TURN), TURN, salt)]
