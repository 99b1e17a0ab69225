"""Load a cache as batches of tensors, in an order that depends on (samples, seed, epoch) alone.

Axes: B lines, T tokens, N rows, M samples of a batch, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.core.memo import Memo
from logitstore.core.order import BUCKET_BATCHES
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.image.batches import collate_views, view_answers
from logitstore.image.pictures import Pictures, pictures_of
from logitstore.store.cache import Cache
from logitstore.targets.decoder import Decoder, decoder_of
from logitstore.targets.targets import AnyTargets
from logitstore.text.batches import collate
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.order import Order, OrderedStream

BYTES_TOGETHER = 1 << 22
"""Bytes of the answers about views that are gathered at once, in whole batches; in random order, each view is in another
part."""


Views = tuple[Array, dict[str, Tensor], Tensor]
"""int64[M] numbers of the views of a batch, their stored fields, and int64[M] their labels."""


class Loader(OrderedStream):
    """A loader gives the batches of a cache; `BatchStream` says how to get them.

    The order of samples is a permutation that is computed place by place when it is needed, so a loader of a billion rows
    starts as quickly as one of a thousand and holds nothing for each sample. With `batch_rows` it reads every sample's
    length first.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        batch_size: int = 8,
        batch_rows: int | None = None,
        samples: Array | None = None,
        shuffle: bool = True,
        order: Order | None = None,
        seed: int = 0,
        packed: bool = False,
        taps: Sequence[str] = (),
        pictures: Pictures | None = None,
        with_images: bool = True,
        epoch_samples: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        ahead: int | None = None,
        pin_memory: bool = False,
        weights: Array | None = None,
    ) -> None:
        """Plan the batches; read no row.

        Args:
            cache: the cache to read.
            batch_size: samples in a batch (of one rank).
            batch_rows: replaces `batch_size`: a batch has on average at most this many rows, in whole samples.
            samples: numbers of the samples to give; None gives all samples.
            shuffle: mix the samples again every epoch; False gives them in their own order.
            order: replaces the mixing: returns the samples to read at some places of an epoch; see `selection.curricula`.
            seed: seed of the order.
            packed: put several samples into one line, with positions that start again, instead of padding each sample; for
                models that keep packed samples apart.
            taps: names of features that come with the batches, such as `hidden-8`.
            pictures: makes the views of a cache of images again; None reads the images from where they were at the dump.
            with_images: False leaves the images out of the batches of such a cache, for callers that make the views
                themselves.
            epoch_samples: number of samples of an epoch, where `order` does not give each sample once.
            rank, world_size: number of this process, and number of the processes that share the epoch.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            ahead: batches that are prepared before they are asked for; None prepares as many as `workers`.
            pin_memory: give batches in page-locked memory.
            weights: float32, for every sample of the cache, the weight of its rows in the loss.

        Raises:
            BadInput: there are no samples, an argument is out of range, or the cache lacks a tap or some part of a tap.
            CacheDamaged, CacheMismatch: a tap cannot be read, or belongs to another cache.
        """
        self.cache, self._weights = cache, weights
        self._pictures = None
        bytes_per_batch = max((batch_rows or batch_size) * cache.manifest.bytes_per_row, 1)
        self._together = min(max(BYTES_TOGETHER // bytes_per_batch, 1), BUCKET_BATCHES)
        self._groups = Memo[tuple[int, int], dict[int, Views]](most=2)
        if cache.manifest.view is not None:
            if packed:
                raise BadInput(f"{cache.path}: views of images cannot be packed. Leave that out.")
            if with_images:
                self._pictures = pictures or pictures_of(cache)
        self.has_targets = cache.manifest.sparsifier.keeps_rows
        self._taps = [cache.taps[name] for name in taps]
        read = cache.part_numbers if samples is None else np.unique(cache.places(np.asarray(samples))[0]).tolist()
        for tap in self._taps:
            tap.check_has(read)
        super().__init__(
            cache,
            batch_size=batch_size,
            batch_rows=batch_rows,
            samples=samples,
            shuffle=shuffle,
            order=order,
            epoch_samples=epoch_samples,
            seed=seed,
            packed=packed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            ahead=ahead,
            pin_memory=pin_memory,
        )

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder that turns the packed answers of the batches into targets."""
        return decoder_of(self.cache)

    def targets(self, batch: Batch) -> AnyTargets:
        """Return the targets for an objective: the batch's answers, decoded on the batch's device."""
        return self.decoder(batch.answer)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32[N, D] of each tap, decoded on the batch's device."""
        return {
            tap.name: tap.codec.decode({name: batch.features[f"{tap.name}/{name}"] for name in tap.plan.fields})
            for tap in self._taps
        }

    def _make(self, epoch: int, number: int) -> Batch:
        if self.cache.manifest.view is not None:
            first = number - number // self._world % self._together * self._world
            samples_M, answer, gold_M = self._groups.get((epoch, first), lambda: self._gather(epoch, first))[number]
            return collate_views(self.cache, samples_M, answer, gold_M, self._pictures, self._taps, self._weights)
        chosen = self._choose(epoch, number)
        return collate(self.cache, chosen, self._packed, self._taps, self._weights)

    def _gather(self, epoch: int, first: int) -> dict[int, Views]:
        """Return views, answers and labels of a batch and of the next batches of its rank, by the batch's number."""
        numbers = range(first, min(first + self._together * self._world, self.batches), self._world)
        chosen = [self._choose(epoch, number) for number in numbers]
        samples_M = np.concatenate(chosen)
        ends = np.cumsum([len(some_M) for some_M in chosen])[:-1]
        labels = np.split(self.cache.labels_of(samples_M), ends)
        fields = {name: np.split(array, ends) for name, array in view_answers(self.cache, samples_M).items()}
        return {
            number: (
                chosen[place],
                {name: torch.from_numpy(pieces[place]) for name, pieces in fields.items()},
                torch.from_numpy(labels[place]),
            )
            for place, number in enumerate(numbers)
        }


def evaluation_loader(cache: Cache, samples: Array | None, **options: Any) -> Loader:
    """Return a loader that gives every sample once, sorted by length, so that there is little padding."""
    chosen = np.arange(len(cache)) if samples is None else samples
    return Loader(cache, samples=chosen[np.argsort(cache.lengths_of(chosen), kind="stable")], shuffle=False, **options)
