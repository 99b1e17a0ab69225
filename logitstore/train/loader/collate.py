"""How the samples of a loader become batches; each task has a collator of its own."""

from __future__ import annotations

from typing import Any, Protocol

from logitstore.core.tasks import facet
from logitstore.core.types import Array
from logitstore.store.cache import Cache
from logitstore.train.loader.batch import Batch


class Chosen(Protocol):
    """The order of a loader, as far as a collator asks for it."""

    @property
    def batches(self) -> int:
        """How many batches an epoch has, over all ranks."""
        ...

    @property
    def world_size(self) -> int:
        """How many ranks share the epoch."""
        ...

    def choose(self, epoch: int, number: int) -> Array:
        """Return int64[M], the samples of global batch `number`."""
        ...


class Collator(Protocol):
    """Lays the samples of one loader into batches."""

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        """Make global batch `number` of an epoch; called from several threads."""
        ...


def collator_of(cache: Cache, **options: Any) -> Collator:
    """Return the collator of a cache's task.

    Raises:
        BadInput: options that mean nothing to the task.
    """
    made: Collator = facet(cache.manifest.task, "training").collator(cache, **options)
    return made
