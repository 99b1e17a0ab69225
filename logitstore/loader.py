"""The loader: a cache in, batches of tensors out, in an order that depends on (samples, seed, epoch) alone.

Axes: B lines, T tokens, N rows, M samples of a batch, D channels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from logitstore.batch import Batch, collate
from logitstore.cache.order import BUCKET_BATCHES, bucketed, in_windows, permuted, salt_of
from logitstore.cache.reader import Cache
from logitstore.decode import Decoder, decoder_of
from logitstore.errors import BadInput
from logitstore.stream import BatchStream
from logitstore.targets import AnyTargets
from logitstore.types import Array


class Loader(BatchStream):
    """Batches of a cache; see `BatchStream` for how they are had.

    The order of samples is a permutation that is computed where it is asked for, so a loader of a billion rows starts as
    quickly as one of a thousand and holds nothing for each sample. With `batch_rows` it reads every sample's length first.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        batch_size: int = 8,
        batch_rows: int | None = None,
        samples: Array | None = None,
        shuffle: bool = True,
        seed: int = 0,
        packed: bool = False,
        taps: Sequence[str] = (),
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        ahead: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        """Plan the batches; reads no row.

        Args:
            cache: the cache to read.
            batch_size: samples in a batch (of one rank).
            batch_rows: in place of `batch_size`: on average at most this many rows in a batch, in whole samples.
            samples: numbers of the samples to give; without it all of them.
            shuffle: mix the samples anew every epoch; without it they come in the order given.
            seed: of the order.
            packed: lay several samples into one line, with positions that begin again, instead of padding each; for models
                that keep packed samples apart.
            taps: names of features that the batches bring along, such as `hidden-8`.
            rank, world_size: this process among those that share the epoch.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            ahead: batches that are prepared before they are asked for; as many as `workers` without it.
            pin_memory: give batches in page-locked memory.

        Raises:
            BadInput: no samples, arguments out of range, or a tap that the cache does not have or not whole.
            CacheDamaged, CacheMismatch: a tap that cannot be read, or belongs to another cache.
        """
        wrong = {"batch_size": batch_size} if batch_rows is None else {"batch_rows": batch_rows}
        for name, value in wrong.items():
            if value < 1:
                raise BadInput(f"{name}={value}: must be at least 1.")
        self.cache = cache
        self._samples = None if samples is None else np.asarray(samples, np.int64)
        self.count = len(cache) if samples is None else len(samples)
        if not self.count:
            raise BadInput(f"{cache.path}: no samples to load. Dump some first, or choose a smaller --holdout.")
        self._taps = [cache.taps[name] for name in taps]
        parts = cache.part_numbers if self._samples is None else np.unique(cache.places(self._samples)[0]).tolist()
        for tap in self._taps:
            tap.check_has(parts)
        self._batch_size, self._batch_rows = batch_size, batch_rows
        self._shuffle, self._seed, self._packed = shuffle, seed, packed
        self._cuts: dict[int, list[Array]] = {}
        self._buckets: dict[tuple[int, int], list[Array]] = {}
        self._lock = threading.Lock()
        super().__init__(rank=rank, world_size=world_size, workers=workers, ahead=ahead, pin_memory=pin_memory)

    @cached_property
    def batches(self) -> int:
        """Batches of an epoch, over all ranks."""
        if self._batch_rows is None:
            return -(-self.count // self._batch_size)
        rows_M = self._row_counts
        if rows_M.max() > self._batch_rows:
            raise BadInput(
                f"batch_rows={self._batch_rows}: there is a sample of {rows_M.max()} rows. Use at least that many."
            )
        # shares no larger than asked for, and no smaller than the longest sample
        return min(-(-int(rows_M.sum()) // self._batch_rows), int(rows_M.sum()) // int(rows_M.max()))

    @cached_property
    def decoder(self) -> Decoder:
        """Turns the packed answers of the batches into targets."""
        return decoder_of(self.cache)

    def targets(self, batch: Batch) -> AnyTargets:
        """What an objective takes: the batch's answers, decoded where the batch is."""
        return self.decoder(batch.answer)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """float32[N, D] of each tap, decoded where the batch is."""
        return {
            tap.name: tap.codec.decode({name: batch.features[f"{tap.name}/{name}"] for name in tap.plan.fields})
            for tap in self._taps
        }

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sample."""
        lengths = self.cache.lengths()
        return int((lengths if self._samples is None else lengths[self._samples]).max())

    def _make(self, epoch: int, number: int) -> Batch:
        return collate(self.cache, self._choose(epoch, number), self._packed, self._taps)

    def _choose(self, epoch: int, number: int) -> Array:
        """The samples of global batch `number`."""
        if self._batch_rows is not None:
            return self._cut_by_rows(epoch)[number]
        size = self._batch_size
        if self._packed or not self._shuffle:
            return self._ordered(epoch, number * size, (number + 1) * size)
        bucket, place = divmod(number, BUCKET_BATCHES)
        with self._lock:
            if (epoch, bucket) not in self._buckets:
                span = size * BUCKET_BATCHES
                some = self._ordered(epoch, bucket * span, (bucket + 1) * span)
                batches = bucketed(some, self.cache.lengths_of(some), size, salt_of(self._seed, epoch, bucket + 1))
                self._buckets = dict(list(self._buckets.items())[-3:]) | {(epoch, bucket): batches}
            return self._buckets[epoch, bucket][place]

    def _ordered(self, epoch: int, start: int, stop: int) -> Array:
        """The samples at some places of the epoch's order."""
        places = np.arange(start, min(stop, self.count))
        if self._shuffle:
            places = permuted(places, self.count, salt_of(self._seed, epoch, 0))
        return places if self._samples is None else self._samples[places]

    def _cut_by_rows(self, epoch: int) -> list[Array]:
        """The samples of every batch: a sample belongs to the batch in whose share of all rows its first row lies.

        The shares are equal and no smaller than the longest sample, so every epoch has the same number of batches, none of
        them empty.
        """
        with self._lock:
            if epoch not in self._cuts:
                order = self._ordered(epoch, 0, self.count)
                counts_M = self.cache.row_counts()[order]
                salt = salt_of(self._seed, epoch, 1)
                if self._shuffle and not self._packed:
                    window = BUCKET_BATCHES * max(int(self._batch_rows or 1) // int(counts_M.mean() + 1), 1)
                    sort = in_windows(self.cache.lengths_of(order), window)
                    order, counts_M = order[sort], counts_M[sort]
                starts_M = np.cumsum(counts_M) - counts_M
                edges = np.ceil(np.arange(1, self.batches) * (int(counts_M.sum()) / self.batches))
                batches = np.split(order, np.searchsorted(starts_M, edges))
                if self._shuffle and not self._packed:
                    batches = [batches[place] for place in permuted(np.arange(len(batches)), len(batches), salt)]
                self._cuts = {epoch: batches}
            return self._cuts[epoch]

    @cached_property
    def _row_counts(self) -> Array:
        counts = self.cache.row_counts()
        return counts if self._samples is None else counts[self._samples]


def evaluation_loader(cache: Cache, samples: Array | None, **options: Any) -> Loader:
    """A loader that gives every sample once, sorted by length, so that little is padded."""
    chosen = np.arange(len(cache)) if samples is None else samples
    return Loader(cache, samples=chosen[np.argsort(cache.lengths_of(chosen), kind="stable")], shuffle=False, **options)
