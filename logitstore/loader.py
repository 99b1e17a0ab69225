"""The loader: a cache in, batches of tensors out, in an order that depends on (samples, seed, epoch) alone.

Axes: B lines, T tokens, N rows, K kept.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from logitstore.batch import Batch, collate
from logitstore.cache.order import BUCKET_BATCHES, bucketed, salt_of, shuffled
from logitstore.cache.reader import Cache
from logitstore.decode import Decoder, decoder_of
from logitstore.errors import BadInput
from logitstore.targets import AnyTargets
from logitstore.types import Array


class Loader:
    """Batches of a cache. Iterating gives the rest of the current epoch, then moves on to the next.

    The epoch is one global sequence of batches; rank r of w takes batches r, r + w, ... of it, so the order does not depend
    on the world size, and the whole state is one integer: how many global batches have been given. Where batches do not
    divide evenly, the last step of some ranks is a batch whose rows do not count (`row_mask`), so that all ranks take the
    same number of steps.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        batch_size: int = 8,
        samples: Array | None = None,
        shuffle: bool = True,
        seed: int = 0,
        packed: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        pin_memory: bool = False,
    ) -> None:
        """Plan the batches; reads no row.

        Args:
            cache: the cache to read.
            batch_size: samples in a batch (of one rank).
            samples: numbers of the samples to give; without it all of them.
            shuffle: mix the samples anew every epoch; without it they come in the order given.
            seed: of the order.
            packed: lay several samples into one line, with positions that begin again, instead of padding each; for models
                that keep packed samples apart.
            rank, world_size: this process among those that share the epoch.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            pin_memory: give batches in page-locked memory.

        Raises:
            BadInput: no samples, or arguments out of range.
        """
        if batch_size < 1 or workers < 0 or not 0 <= rank < world_size:
            raise BadInput(f"batch_size={batch_size}, workers={workers}, rank={rank} of {world_size}: out of range.")
        self.cache = cache
        self.samples = np.arange(len(cache)) if samples is None else np.asarray(samples, np.int64)
        if not len(self.samples):
            raise BadInput(f"{cache.path}: no samples to load. Dump some first, or choose a smaller --holdout.")
        self._batch_size, self._shuffle, self._seed, self._packed = batch_size, shuffle, seed, packed
        self._rank, self._world, self._pin = rank, world_size, pin_memory
        self._ahead = _Ahead(self._make, workers)
        self._consumed = 0
        self._orders: dict[int, Array] = {}
        self._buckets: dict[tuple[int, int], list[Array]] = {}
        self._lock = threading.Lock()

    @property
    def batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        return -(-len(self.samples) // self._batch_size)

    def __len__(self) -> int:
        """Steps of an epoch, the same for every rank."""
        return math.ceil(self.batches / self._world)

    @cached_property
    def decoder(self) -> Decoder:
        """Turns the packed answers of the batches into targets."""
        return decoder_of(self.cache)

    def targets(self, batch: Batch) -> AnyTargets:
        """What an objective takes: the batch's answers, decoded where the batch is."""
        return self.decoder(batch.answer)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        return int(self.cache.lengths()[self.samples].max())

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch. `state_dict` is exact between batches."""
        epoch, start = divmod(self._consumed, self.batches)
        for first in range(start, self.batches, self._world):
            batch = self._ahead.get(epoch, range(first + self._rank, self.batches + self._rank, self._world))
            self._consumed = epoch * self.batches + min(first + self._world, self.batches)
            yield batch

    def at(self, epoch: int, step: int) -> Batch:
        """The batch of one step of one epoch; the next step's is prepared meanwhile."""
        return self._ahead.get(epoch, range(step * self._world + self._rank, len(self) * self._world, self._world))

    def state_dict(self) -> dict[str, int]:
        """Where the reader is: global batches given since the start."""
        return {"batches": self._consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from `state`, also one saved by another number of ranks."""
        self._consumed = state["batches"]

    def _make(self, key: tuple[int, int]) -> Batch:
        epoch, number = key
        real = number < self.batches
        chosen = self._choose(epoch, number if real else self.batches - 1)
        batch = collate(self.cache, chosen, self._packed)
        if not real:
            batch = replace(
                batch, row_mask=torch.zeros_like(batch.row_mask), samples=torch.full_like(batch.samples, -1)
            )
        return batch.pin() if self._pin else batch

    def _choose(self, epoch: int, number: int) -> Array:
        """The samples of global batch `number`."""
        with self._lock:
            order = self._order(epoch)
            if self._packed or not self._shuffle:
                return order[number * self._batch_size : (number + 1) * self._batch_size]
            bucket, place = divmod(number, BUCKET_BATCHES)
            if (epoch, bucket) not in self._buckets:
                span = self._batch_size * BUCKET_BATCHES
                some = order[bucket * span : (bucket + 1) * span]
                batches = bucketed(some, self._lengths(some), self._batch_size, salt_of(self._seed, epoch, bucket + 1))
                self._buckets = dict(list(self._buckets.items())[-3:]) | {(epoch, bucket): batches}
            return self._buckets[epoch, bucket][place]

    def _order(self, epoch: int) -> Array:
        if not self._shuffle:
            return self.samples
        if epoch not in self._orders:
            self._orders = {epoch: self.samples[shuffled(len(self.samples), self._seed, epoch)]}
        return self._orders[epoch]

    def _lengths(self, samples_M: Array) -> Array:
        located = [self.cache.locate(int(index)) for index in samples_M]
        return np.array([part.samples.lengths_S[number] for part, number in located], np.int64)


def evaluation_loader(cache: Cache, samples: Array | None, **options: Any) -> Loader:
    """A loader that gives every sample once, sorted by length, so that little is padded."""
    chosen = np.arange(len(cache)) if samples is None else samples
    return Loader(cache, samples=chosen[np.argsort(cache.lengths()[chosen], kind="stable")], shuffle=False, **options)


class _Ahead:
    """Batches by key, the next ones prepared on threads before they are asked for."""

    def __init__(self, make: Callable[[tuple[int, int]], Batch], workers: int) -> None:
        self._make, self._workers = make, workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="logitstore-loader") if workers else None
        self._pending: dict[tuple[int, int], Future[Batch]] = {}

    def get(self, epoch: int, numbers: range) -> Batch:
        """The batch of the first number of an epoch; those of the next ones are begun."""
        if self._pool is None:
            return self._make((epoch, numbers[0]))
        wanted = [(epoch, number) for number in numbers[: self._workers + 1]]
        for stale in self._pending.keys() - set(wanted):
            self._pending.pop(stale).cancel()
        for key in wanted:
            if key not in self._pending:
                self._pending[key] = self._pool.submit(self._make, key)
        return self._pending.pop(wanted[0]).result()
