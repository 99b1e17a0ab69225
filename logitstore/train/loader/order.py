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

from logitstore.core.order import BUCKET_BATCHES, bucketed, in_groups, permuted, salt_of
from logitstore.core.place import Place
from logitstore.core.random import hashed
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.train.loader.stream import BatchStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.windows import PartWindows

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

    def __init__(self, source: Source, samples: Array | SampleSet | None, windows: PartWindows | None = None) -> None:
        """Take the samples to order, None for all of the source; with windows each of these is ordered alone."""
        self._source, self._samples, self._windows = source, samples, windows

    @cached_property
    def _ranked(self) -> Array:
        lengths_M = self._source.column("lengths")
        if self._samples is not None:
            lengths_M = lengths_M[np.asarray(self._samples)]
        if self._windows is None:
            ranked_M = np.argsort(lengths_M, kind="stable")
        else:
            ranked_M = in_groups(lengths_M, _windows_of(self._windows.starts(0)))
        return ranked_M.astype(np.uint32 if len(lengths_M) < 1 << 32 else np.int64)

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
        mixed: PartWindows | None = None,
        seed: int,
        packed: bool,
        rank: int,
        world_size: int,
        workers: int,
        ahead: int | None,
        pin_memory: bool,
    ) -> None:
        """Plan the batches; the arguments are those of `Loader`, but for `mixed`: the windows in which samples are mixed.

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
        self._mixed = mixed
        self._cuts: dict[int, tuple[list[Array], Array]] = {}
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
            return self._cut_by_rows(epoch)[0][number]
        size = self._batch_size
        if self._packed or not self._shuffle or self._order is not None:
            return self._ordered(epoch, number * size, (number + 1) * size)
        first, last = self._bucket(epoch, number)
        with self._lock:
            if (epoch, first) not in self._buckets:
                some = self._ordered(epoch, first * size, last * size)
                salt = salt_of(self._seed, epoch, (first if self._mixed else first // BUCKET_BATCHES) + 1)
                batches = bucketed(some, self._source.lengths_of(some), size, salt)
                self._buckets = dict(list(self._buckets.items())[-3:]) | {(epoch, first): batches}
            return self._buckets[epoch, first][number - first]

    def first_place(self, epoch: int, number: int) -> int:
        """Return a place of an epoch, in the window to which global batch `number` belongs."""
        if self._batch_rows is None:
            return number * self._batch_size
        return int(self._cut_by_rows(epoch)[1][number])

    def _bucket(self, epoch: int, number: int) -> tuple[int, int]:
        """Return the first of the batches that are sorted by length together with batch `number`, and the one after the last.

        With windows they are batches that begin in the same window, so that only the last of them reads from the next one.
        """
        first, end = 0, number + BUCKET_BATCHES
        if self._mixed is not None:
            starts_K, size = self._mixed.starts(epoch), self._batch_size
            window = int(np.searchsorted(starts_K, number * size, side="right")) - 1
            first, end = (-(-starts_K[window : window + 2] // size)).tolist()
        first += (number - first) // BUCKET_BATCHES * BUCKET_BATCHES
        return first, min(first + BUCKET_BATCHES, end)

    def _ordered(self, epoch: int, start: int, stop: int) -> Array:
        """Return the samples at some places of the epoch's order."""
        places = np.arange(start, min(stop, self.count))
        if self._order is not None:
            places = self._order(epoch, places)
        elif self._mixed is not None:
            places = self._mixed.places(epoch, places)
        elif self._shuffle:
            places = permuted(places, self.count, salt_of(self._seed, epoch, 0))
        return places if self._samples is None else np.asarray(self._samples[places])

    def _cut_by_rows(self, epoch: int) -> tuple[list[Array], Array]:
        """Return the samples of every batch, and int64[B]: a place in the window of each. The rows of the epoch are divided
        into equal shares, one a batch; a sample belongs to the batch in whose share its first row lies.

        The shares are no smaller than the longest sample, so every epoch has the same number of batches, and none of them
        is empty.
        """
        with self._lock:
            if epoch not in self._cuts:
                order = self._ordered(epoch, 0, self.count)
                counts_M = self._source.column("row_counts")[order].astype(np.int64)
                is_sorted = self._shuffle and not self._packed
                if is_sorted:
                    per_batch = max(int(self._batch_rows or 1) // int(counts_M.mean() + 1), 1)
                    group_M = self._groups(epoch, BUCKET_BATCHES * per_batch)
                    sort = in_groups(self._source.lengths_of(order), group_M)
                    order, counts_M = order[sort], counts_M[sort]
                starts_M = np.cumsum(counts_M) - counts_M
                edges = np.ceil(np.arange(1, self.batches) * (int(counts_M.sum()) / self.batches))
                firsts_B = np.searchsorted(starts_M, edges)
                batches = np.split(order, firsts_B)
                firsts_B = np.concatenate([[0], firsts_B])
                if is_sorted:
                    numbers_B, salt = np.arange(len(batches)), salt_of(self._seed, epoch, 1)
                    if self._mixed is None:
                        turn_B = permuted(numbers_B, len(batches), salt)
                    else:
                        turn_B = np.lexsort((hashed(numbers_B, salt), group_M[firsts_B]))
                    batches, firsts_B = [batches[place] for place in turn_B], firsts_B[turn_B]
                self._cuts = {epoch: (batches, firsts_B)}
            return self._cuts[epoch]

    def _groups(self, epoch: int, length: int) -> Array:
        """Return int64[M]: for every place of an epoch, which samples are sorted by length together: `length` of one window."""
        places_M = np.arange(self.count)
        if self._mixed is not None:
            starts_K = self._mixed.starts(epoch)
            places_M -= starts_K[_windows_of(starts_K)]
            return np.cumsum(places_M % length == 0) - 1
        return places_M // length

    @cached_property
    def _row_counts(self) -> Array:
        return self._chosen(self._source.column("row_counts"))

    def _chosen(self, values_S: Array) -> Array:
        """Return those of the values of all samples that belong to samples of this stream; their order is not theirs."""
        if self._samples is None:
            return values_S
        return values_S[self._samples.mask() if isinstance(self._samples, SampleSet) else self._samples]


def _windows_of(starts_K: Array) -> Array:
    """Return int64[M]: the window of every place."""
    return np.repeat(np.arange(len(starts_K) - 1), np.diff(starts_K))
