"""Order the samples of an epoch: mixed, in batches of similar length, or by a curriculum.

Axes: M samples of a batch.
"""

from __future__ import annotations

import threading
from abc import ABC
from collections.abc import Callable
from functools import cached_property
from typing import Protocol

import numpy as np

from logitstore.core.order import BUCKET_BATCHES, bucketed, in_windows, permuted, salt_of
from logitstore.core.place import Place
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet

Order = Callable[[int, Array], Array]
"""A pure function from an epoch and some of its places to the numbers of the samples to read there, int64[M]."""


class Source(Protocol):
    """A source tells how many samples it has, and how long they are; a `Cache` is one."""

    @property
    def path(self) -> Place:
        """The name of the source in messages."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> Array:
        """Return a whole number for every sample: `lengths`, its count of tokens, or `row_counts`."""

    def lengths_of(self, samples_M: Array) -> Array:
        """Return int64[M]: the number of tokens of some samples."""


class ByLength:
    """The order of samples by their lengths, the same in every epoch. The lengths are read when it is first asked."""

    def __init__(self, source: Source, samples: Array | SampleSet | None) -> None:
        """Take the samples to order; None for all of the source."""
        self._source, self._samples = source, samples

    @cached_property
    def _ranked(self) -> Array:
        lengths_M = self._source.column("lengths")
        if self._samples is not None:
            lengths_M = lengths_M[np.asarray(self._samples)]
        return np.argsort(lengths_M, kind="stable").astype(np.uint32 if len(lengths_M) < 1 << 32 else np.int64)

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: the places of the samples that are read at some places of an epoch."""
        return self._ranked[places_M].astype(np.int64)


class OrderedStream(BatchStream, ABC):
    """An ordered stream gives batches of the samples of a source, in an order that depends on (samples, seed, epoch) alone."""

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        batch_rows: int | None,
        samples: Array | SampleSet | None,
        shuffle: bool,
        order: Order | None,
        epoch_samples: int | None = None,
        seed: int,
        packed: bool,
        rank: int,
        world_size: int,
        workers: int,
        ahead: int | None,
        pin_memory: bool,
    ) -> None:
        """Plan the batches; the arguments are those of `Loader`.

        Raises:
            BadInput: there are no samples, or an argument is out of range.
        """
        sizes = {"batch_size": batch_size} if batch_rows is None else {"batch_rows": batch_rows}
        for name, value in sizes.items():
            if value < 1:
                raise BadInput(f"{name}={value}: must be at least 1.")
        if order is not None and batch_rows is not None:
            raise BadInput(f"batch_rows={batch_rows}: an order of your own goes with batch_size only.")
        self._source = source
        self._samples = samples if samples is None or isinstance(samples, SampleSet) else np.asarray(samples, np.int64)
        self.count = epoch_samples or (len(source) if samples is None else len(samples))
        if not self.count:
            raise BadInput(f"{source.path}: no samples to load. Dump some first, or choose a smaller --holdout.")
        self._batch_size, self._batch_rows = batch_size, batch_rows
        self._shuffle, self._order, self._seed, self._packed = shuffle, order, seed, packed
        self._cuts: dict[int, list[Array]] = {}
        self._buckets: dict[tuple[int, int], list[Array]] = {}
        self._lock = threading.Lock()
        super().__init__(rank=rank, world_size=world_size, workers=workers, ahead=ahead, pin_memory=pin_memory)

    @cached_property
    def batches(self) -> int:
        """Number of batches of an epoch, over all ranks."""
        if self._batch_rows is None:
            return -(-self.count // self._batch_size)
        rows_M = self._row_counts
        if rows_M.max() > self._batch_rows:
            raise BadInput(
                f"batch_rows={self._batch_rows}: there is a sample of {rows_M.max()} rows. Use at least that many."
            )
        # a share is no larger than `batch_rows`, and no smaller than the longest sample
        return min(-(-int(rows_M.sum()) // self._batch_rows), int(rows_M.sum()) // int(rows_M.max()))

    @cached_property
    def longest(self) -> int:
        """Number of tokens of the longest sample."""
        lengths_S = self._source.column("lengths")
        if isinstance(self._samples, SampleSet):
            return int(self._samples.largest_of(lengths_S))
        return int((lengths_S if self._samples is None else lengths_S[self._samples]).max())

    def choose(self, epoch: int, number: int) -> Array:
        """The samples of global batch `number`."""
        if self._batch_rows is not None:
            return self._cut_by_rows(epoch)[number]
        size = self._batch_size
        if self._packed or not self._shuffle or self._order is not None:
            return self._ordered(epoch, number * size, (number + 1) * size)
        bucket, place = divmod(number, BUCKET_BATCHES)
        with self._lock:
            if (epoch, bucket) not in self._buckets:
                span = size * BUCKET_BATCHES
                some = self._ordered(epoch, bucket * span, (bucket + 1) * span)
                batches = bucketed(some, self._source.lengths_of(some), size, salt_of(self._seed, epoch, bucket + 1))
                self._buckets = dict(list(self._buckets.items())[-3:]) | {(epoch, bucket): batches}
            return self._buckets[epoch, bucket][place]

    def _ordered(self, epoch: int, start: int, stop: int) -> Array:
        """Return the samples at some places of the epoch's order."""
        places = np.arange(start, min(stop, self.count))
        if self._order is not None:
            places = self._order(epoch, places)
        elif self._shuffle:
            places = permuted(places, self.count, salt_of(self._seed, epoch, 0))
        return places if self._samples is None else np.asarray(self._samples[places])

    def _cut_by_rows(self, epoch: int) -> list[Array]:
        """Return the samples of every batch. The rows of the epoch are divided into equal shares, one a batch; a sample
        belongs to the batch in whose share its first row lies.

        The shares are no smaller than the longest sample, so every epoch has the same number of batches, and none of them
        is empty.
        """
        with self._lock:
            if epoch not in self._cuts:
                order = self._ordered(epoch, 0, self.count)
                counts_M = self._source.column("row_counts")[order].astype(np.int64)
                salt = salt_of(self._seed, epoch, 1)
                if self._shuffle and not self._packed:
                    window = BUCKET_BATCHES * max(int(self._batch_rows or 1) // int(counts_M.mean() + 1), 1)
                    sort = in_windows(self._source.lengths_of(order), window)
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
        return self._chosen(self._source.column("row_counts"))

    def _chosen(self, values_S: Array) -> Array:
        """Return those of the values of all samples that belong to samples of this stream; their order is not theirs."""
        if self._samples is None:
            return values_S
        return values_S[self._samples.mask() if isinstance(self._samples, SampleSet) else self._samples]
