"""The loader: a cache in, batches of tensors out, in an order that depends on (samples, seed, epoch) alone.

Axes: B lines, T tokens, N rows, M samples of a batch, D channels.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.batch import Batch, collate, collate_views, view_answers
from logitstore.cache.reader import Cache
from logitstore.decode import Decoder, decoder_of
from logitstore.errors import BadInput
from logitstore.ordered import Order, OrderedStream
from logitstore.pictures import Pictures, pictures_of
from logitstore.targets import AnyTargets
from logitstore.types import Array

BYTES_TOGETHER = 1 << 22
"""Of the answers about views that are gathered at once, in whole batches: in random order each is in another part."""


_LABEL = "label"
"""What the labels are called among the answers; no stored field is called so."""


class Loader(OrderedStream):
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
        """Plan the batches; reads no row.

        Args:
            cache: the cache to read.
            batch_size: samples in a batch (of one rank).
            batch_rows: in place of `batch_size`: on average at most this many rows in a batch, in whole samples.
            samples: numbers of the samples to give; without it all of them.
            shuffle: mix the samples anew every epoch; without it they come in the order given.
            order: in place of mixing them: the samples to read at some places of an epoch; see `selection.curricula`.
            seed: of the order.
            packed: lay several samples into one line, with positions that begin again, instead of padding each; for models
                that keep packed samples apart.
            taps: names of features that the batches bring along, such as `hidden-8`.
            pictures: makes the views again, for a cache of images; without it from where its images were.
            with_images: False leaves the images out of the batches of such a cache, for those who make the views themselves.
            epoch_samples: of an epoch, where the order gives others than so many as there are.
            rank, world_size: this process among those that share the epoch.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            ahead: batches that are prepared before they are asked for; as many as `workers` without it.
            pin_memory: give batches in page-locked memory.
            weights: float32, one for every sample of the cache: what the loss of its rows counts.

        Raises:
            BadInput: no samples, arguments out of range, or a tap that the cache does not have or not whole.
            CacheDamaged, CacheMismatch: a tap that cannot be read, or belongs to another cache.
        """
        self.cache, self._weights = cache, weights
        self._pictures = None
        self._together = max(BYTES_TOGETHER // ((batch_rows or batch_size) * cache.manifest.bytes_per_row or 1), 1)
        self._gathered: dict[tuple[int, int], dict[int, dict[str, Tensor]]] = {}
        self._gathering = threading.Lock()
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

    def _make(self, epoch: int, number: int) -> Batch:
        chosen = self._choose(epoch, number)
        if self.cache.manifest.view is not None:
            answer = self._gathered_with(epoch, number)
            gold_M = answer.pop(_LABEL)
            return collate_views(self.cache, chosen, answer, gold_M, self._pictures, self._taps, self._weights)
        return collate(self.cache, chosen, self._packed, self._taps, self._weights)

    def _gathered_with(self, epoch: int, number: int) -> dict[str, Tensor]:
        """Answers and labels of the views of a batch, gathered together with those of this rank's batches around it."""
        first = number - number // self._world % self._together * self._world
        with self._gathering:
            if (epoch, first) not in self._gathered:
                numbers = range(first, min(first + self._together * self._world, self.batches), self._world)
                chosen = [self._choose(epoch, each) for each in numbers]
                ends = np.cumsum([len(some_M) for some_M in chosen])[:-1]
                samples_M = np.concatenate(chosen)
                fields = view_answers(self.cache, samples_M) | {_LABEL: self.cache.labels_of(samples_M)}
                split = {name: np.split(array, ends) for name, array in fields.items()}
                found = {
                    each: {name: torch.from_numpy(pieces[place]) for name, pieces in split.items()}
                    for place, each in enumerate(numbers)
                }
                # threads may still be at work on the batches before
                self._gathered = dict(list(self._gathered.items())[-1:]) | {(epoch, first): found}
            return dict(self._gathered[epoch, first][number])


def evaluation_loader(cache: Cache, samples: Array | None, **options: Any) -> Loader:
    """A loader that gives every sample once, sorted by length, so that little is padded."""
    chosen = np.arange(len(cache)) if samples is None else samples
    return Loader(cache, samples=chosen[np.argsort(cache.lengths_of(chosen), kind="stable")], shuffle=False, **options)
