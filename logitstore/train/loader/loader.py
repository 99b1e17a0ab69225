"""Load a cache as batches of tensors, in an order that depends on (samples, seed, epoch) alone.

Axes: B lines, T tokens, N rows, M samples of a batch, D channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.store.remote.uses import together
from logitstore.store.taps import Tap
from logitstore.targets.decoder import Decoder, decoder_of
from logitstore.targets.targets import AnyTargets
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import collator_of
from logitstore.train.loader.gather import answers_beside, features_beside
from logitstore.train.loader.order import ByLength, Order, OrderedStream
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.windows import Announced, PartWindows, Windows, part_windows


class Loader(OrderedStream):
    """A loader gives the batches of a cache; `BatchStream` says how to get them.

    The order of samples is a permutation that is computed place by place when it is needed, so a loader of a billion rows
    starts as quickly as one of a thousand and holds nothing for each sample. With `batch_rows` it reads every sample's
    length first.

    With `window_parts` samples are mixed only within parts that are read together, and the cache is told which parts come
    next; see `logitstore.train.loader.windows`.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        batch_size: int = 8,
        batch_rows: int | None = None,
        samples: Array | SampleSet | None = None,
        shuffle: bool = True,
        order: Order | None = None,
        window_parts: int | None = None,
        windows: Windows | None = None,
        seed: int = 0,
        packed: bool = False,
        taps: Sequence[str] = (),
        epoch_samples: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
        ahead: int | None = None,
        pin_memory: bool = False,
        weights: Array | None = None,
        **shown: Any,
    ) -> None:
        """Plan the batches; read no row.

        Args:
            cache: the cache to read.
            batch_size: samples in a batch (of one rank).
            batch_rows: in place of `batch_size`: on average at most this many rows in a batch, in whole samples.
            samples: numbers of the samples to give; without it all of them.
            shuffle: mix the samples anew every epoch; without it they come in the order given.
            order: in place of mixing them: the samples to read at some places of an epoch; see `selection.curricula`.
            window_parts: read the parts in a random order, this many at a time, and mix samples only within these, for a cache
                that is larger than the folder it is read through; None mixes all samples.
            windows: the windows of an `order`, so that the cache is told which parts come next.
            seed: of the order.
            packed: lay several samples into one line, with positions that begin again, instead of padding each; for models
                that keep packed samples apart.
            taps: names of features that the batches bring along, such as `hidden-8`.
            epoch_samples: of an epoch, where the order gives others than so many as there are.
            rank, world_size: this process among those that share the epoch.
            workers: threads that prepare batches ahead; 0 prepares each when it is asked for.
            ahead: batches that are prepared before they are asked for; None prepares as many as `workers`.
            pin_memory: give batches in page-locked memory.
            weights: float32, one for every sample of the cache: what the loss of its rows counts.
            shown: options of the task. For a cache of images: `pictures` makes the views again, without it from where the
                images were; `with_images=False` leaves the images out, for those who make the views themselves.

        Raises:
            BadInput: there are no samples, an argument is out of range, or the cache lacks a tap or some part of a tap.
            CacheDamaged, CacheMismatch: a tap cannot be read, or belongs to another cache.
        """
        self.cache = cache
        self._also: list[tuple[Cache, Decoder]] = []
        self._also_taps: list[list[Tap]] = []
        self.shown = shown
        self.has_targets = cache.manifest.sparsifier.keeps_rows
        self._taps = [cache.taps[name] for name in taps]
        for tap in self._taps:
            if not tap.complete:
                read_M = cache.part_numbers if samples is None else np.unique(cache.places(np.asarray(samples))[0])
                tap.check_has(np.asarray(read_M).tolist())
        mixed: PartWindows | None = None
        if window_parts is not None:
            _check_mixing(window_parts, shuffle, order, epoch_samples)
            if samples is not None and not isinstance(samples, SampleSet):
                samples = np.sort(np.asarray(samples, np.int64))
            windows = mixed = part_windows(cache, samples, window_parts, seed)
        self._next = None if windows is None else Announced(windows, self._prefetch, goes_on=shuffle)
        # of far parts: a batch may reach into two windows, and other threads make others meanwhile
        self._together = min(batch_rows or batch_size, 2 * (window_parts or cache.manifest.parts)) * max(
            workers or 1, 1
        )
        bytes_per_batch = max((batch_rows or batch_size) * cache.manifest.bytes_per_row, 1)
        self._collator = collator_of(
            cache, packed=packed, taps=self._taps, weights=weights, bytes_per_batch=bytes_per_batch, **shown
        )
        super().__init__(
            cache,
            batch_size=batch_size,
            batch_rows=batch_rows,
            samples=samples,
            shuffle=shuffle,
            order=order,
            epoch_samples=epoch_samples,
            mixed=mixed,
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
        if self._also:
            return self.decoder({name: batch.answer[name] for name in self.cache.manifest.fields})
        return self.decoder(batch.answer)

    def read_also(self, caches: Sequence[Cache], taps: Sequence[Sequence[str]] = ()) -> None:
        """Let the batches bring along what further caches, of the same samples and positions, say of the same rows, and some
        taps of each, by name."""
        self._also = [(each, decoder_of(each)) for each in caches]
        self._also_taps = [[each.taps[name] for name in names] for each, names in zip(caches, taps, strict=False)]
        for tap in (tap for some in self._also_taps for tap in some):
            tap.check_has(range(tap.plan.parts))

    def also_answers(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return what each further cache stores about the rows."""
        return [
            {name: batch.answer[also_name(place, name)] for name in cache.manifest.fields}
            for place, (cache, _) in enumerate(self._also)
        ]

    def also_targets(self, batch: Batch) -> list[AnyTargets]:
        """Return the targets of each further cache, decoded on the batch's device."""
        answers = self.also_answers(batch)
        return [decoder(answer) for (_, decoder), answer in zip(self._also, answers, strict=True)]

    def features(self, batch: Batch) -> dict[str, Tensor]:
        """Return float32[N, D] of each tap, decoded on the batch's device."""
        return _decoded(self._taps, batch.features)

    def also_features(self, batch: Batch) -> list[dict[str, Tensor]]:
        """Return the taps of each further cache, decoded on the batch's device."""
        return [
            _decoded(taps, {tail: value for name, value in batch.features.items() if (tail := _of_also(place, name))})
            for place, taps in enumerate(self._also_taps)
        ]

    def _make(self, epoch: int, number: int) -> Batch:
        self.cache.raise_found()
        if self._next is not None:
            self._next.reached(epoch, self.first_place(epoch, number))
        with together(self._together):
            batch = self._collator.batch(self, epoch, number)
            for place, (cache, _) in enumerate(self._also):
                cache.raise_found()
                found = answers_beside(cache, batch.samples.numpy(), batch.counts.numpy())
                named = {also_name(place, name): value for name, value in found.items()}
                batch = replace(batch, answer=batch.answer | named)
            for place, taps in enumerate(self._also_taps):
                if taps:
                    beside = features_beside(self._also[place][0], taps, batch.samples.numpy())
                    named = {also_name(place, name): value for name, value in beside.items()}
                    batch = replace(batch, features=batch.features | named)
        return batch

    def _prefetch(self, parts: list[int]) -> None:
        self.cache.prefetch(parts)
        for tap in self._taps:
            tap.prefetch(parts)


def also_name(place: int, field: str) -> str:
    """Return the name in a batch's answer of a field of a further cache; `place` is its place among them."""
    return f"also-{place}/{field}"


def _of_also(place: int, name: str) -> str:
    """Return the name of a field in its own cache, from that in a batch; empty for another cache's."""
    own = also_name(place, "")
    return name.removeprefix(own) if name.startswith(own) else ""


def _decoded(taps: Sequence[Tap], stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        tap.name: tap.codec.decode({name: stored[f"{tap.name}/{name}"] for name in tap.plan.fields}) for tap in taps
    }


def _check_mixing(window_parts: int, shuffle: bool, order: Order | None, epoch_samples: int | None) -> None:
    """Refuse what decides the order beside the windows of parts. Raises BadInput: names it."""
    others = {
        "shuffle=False": not shuffle,
        "an order of your own": order is not None,
        "epoch_samples": epoch_samples is not None,
    }
    if named := [name for name, is_given in others.items() if is_given]:
        raise BadInput(f"window_parts={window_parts} with {named[0]}: one of them decides the order. Leave one out.")


def evaluation_loader(
    cache: Cache, samples: Array | SampleSet | None, *, window_parts: int | None = None, **options: Any
) -> Loader:
    """Return a loader that gives every sample once, sorted by length, so that there is little padding.

    With `window_parts` it reads so many parts at a time, in their order, and sorts the samples of these; `samples` must rise.
    """
    windows = None if window_parts is None else part_windows(cache, samples, window_parts, None)
    order = ByLength(cache, samples, windows)
    return Loader(cache, samples=samples, order=order, windows=windows, shuffle=False, **options)
