"""Order samples by windows of parts, for caches larger than the folder that they are read through.

The parts are read in a random order, a few at a time, and samples are mixed only within the parts that are read together: a
window. An order is a pure function of (samples, seed, epoch, parts of a window).

Axes: P parts, K windows, M places.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from logitstore.core.order import permuted, permuted_within, salt_of
from logitstore.core.random import hashed
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.train.loader.subset import SampleSet

_PARTS, _WITHIN = 0x70617274, 0x77696E64
"""Keep the random numbers of the parts and of the samples within a window apart, and from those of a mixed epoch."""


_LOOKED_AT = 64
"""Places for each part of a window that are looked at for where the part is first needed; hardly ever is one not among them."""


class Windows(Protocol):
    """Windows say which parts of a cache are read together, one window after the other."""

    def starts(self, epoch: int) -> Array:
        """Return int64[K + 1]: the places of an epoch at which the windows begin, rising, and the count of all places."""
        ...

    def parts(self, epoch: int, window: int) -> list[int]:
        """Return the numbers of the parts of a window, in the order in which they are first needed."""
        ...


@dataclass(frozen=True, eq=False)
class _Epoch:
    """The parts of one epoch: `part_P` in their order, `first_P` int64[P + 1] where each begins if they are laid one after
    the other, and `starts_K` int64[K + 1] where the windows begin."""

    part_P: Array
    first_P: Array
    starts_K: Array


class PartWindows:
    """Part windows give the order of some places that lie in the order of their parts; only parts with places are counted.

    Windows have as many parts as each other, or one less, so that none is left over that mixes little. An epoch takes 16
    bytes a part; the last two that were asked for are held.
    """

    def __init__(self, numbers_P: Array, counts_P: Array, *, together: int, seed: int | None) -> None:
        """Take the parts.

        Args:
            numbers_P: int64, their numbers.
            counts_P: int64, how many places each has.
            together: most parts of a window.
            seed: of the order; None leaves parts and places in theirs.

        Raises:
            BadInput: fewer than one part is to be read together.
        """
        if together < 1:
            raise BadInput(f"window_parts={together}: must be at least 1.")
        has_places_P = counts_P > 0
        self._numbers_P = numbers_P[has_places_P]
        self._first_P = np.concatenate([[0], np.cumsum(counts_P[has_places_P], dtype=np.int64)])
        self._together, self._seed = together, seed
        self._epochs: dict[int, _Epoch] = {}

    def starts(self, epoch: int) -> Array:
        """Return int64[K + 1]: the places of an epoch at which the windows begin, and the count of all places."""
        return self._of(epoch).starts_K

    def places(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: the places whose samples are read at some places of an epoch."""
        rank_M, inside_M = self._found(epoch, places_M)
        return self._first_P[self._of(epoch).part_P[rank_M]] + inside_M

    def parts(self, epoch: int, window: int) -> list[int]:
        """Return the numbers of the parts of a window, in the order in which their first samples come."""
        found = self._of(epoch)
        start, stop = found.starts_K[window : window + 2].tolist()
        first, last = np.searchsorted(found.first_P, [start, stop]).tolist()
        rank_M, _ = self._found(epoch, np.arange(start, min(stop, start + _LOOKED_AT * (last - first))))
        ranks, where = np.unique(rank_M, return_index=True)
        seen = ranks[np.argsort(where)]
        unseen = np.setdiff1d(np.arange(first, last), seen)
        numbers: list[int] = self._numbers_P[found.part_P[np.concatenate([seen, unseen])]].tolist()
        return numbers

    def _found(self, epoch: int, places_M: Array) -> tuple[Array, Array]:
        """Return int64[M] each: the part at some places of an epoch, by its rank there, and the place inside the part."""
        found, places_M = self._of(epoch), np.asarray(places_M, np.int64)
        if self._seed is not None:
            window_M = np.searchsorted(found.starts_K, places_M, side="right") - 1
            start_M = found.starts_K[window_M]
            salts_M = hashed(window_M, salt_of(self._seed, epoch, _WITHIN))
            places_M = start_M + permuted_within(places_M - start_M, found.starts_K[window_M + 1] - start_M, salts_M)
        rank_M = np.searchsorted(found.first_P, places_M, side="right") - 1
        return rank_M, places_M - found.first_P[rank_M]

    def _of(self, epoch: int) -> _Epoch:
        found = self._epochs.get(epoch)
        if found is None:
            part_P = np.arange(len(self._numbers_P))
            if self._seed is not None:
                part_P = permuted(part_P, len(part_P), salt_of(self._seed, epoch, _PARTS))
            counts_P = np.diff(self._first_P)[part_P]
            first_P = np.concatenate([[0], np.cumsum(counts_P, dtype=np.int64)])
            windows = -(-len(part_P) // self._together)
            edges_K = np.arange(windows + 1) * len(part_P) // max(windows, 1)
            found = _Epoch(part_P, first_P, first_P[edges_K])
            self._epochs = dict(list(self._epochs.items())[-1:]) | {epoch: found}
        return found


def part_windows(cache: Cache, samples: Array | SampleSet | None, together: int, seed: int | None) -> PartWindows:
    """Return the windows of some samples of a cache.

    Args:
        cache: the cache to read.
        samples: rising numbers of samples; None for all.
        together: most parts of a window.
        seed: of the order; None leaves parts and samples in theirs.

    Raises:
        BadInput: fewer than one part is to be read together.
        IndexError: the cache has no such sample.
    """
    if samples is not None and not isinstance(samples, SampleSet) and len(samples):
        cache.places(samples[[0, -1]])
    return windows_between(cache.index.numbers_P, cache.index.first_samples_P, samples, together, seed)


def windows_between(
    numbers_P: Array, edges_E: Array, samples: Array | SampleSet | None, together: int, seed: int | None
) -> PartWindows:
    """Return the windows of some samples, as `part_windows` does, of parts whose first samples, and the count of all, are
    int64[P + 1]."""
    if isinstance(samples, SampleSet):
        edges_E = samples.count_below(edges_E)
    elif samples is not None:
        edges_E = np.searchsorted(samples, edges_E)
    return PartWindows(numbers_P, np.diff(edges_E), together=together, seed=seed)


class Announced:
    """Say which parts come next: when the first batch of a window is made, the parts of the window after it are asked for.

    Where a reader begins or goes on in the middle, it asks for the parts of that window too.
    """

    def __init__(self, windows: Windows, ask: Callable[[list[int]], None], *, goes_on: bool) -> None:
        """Ask for nothing yet.

        Args:
            windows: what is read together.
            ask: is given the numbers of parts, in the order in which they are needed.
            goes_on: whether the first window of the next epoch follows the last one of an epoch.
        """
        self._windows, self._ask, self._goes_on = windows, ask, goes_on
        self._asked: list[tuple[int, int]] = []
        self._lock = threading.Lock()

    def reached(self, epoch: int, place: int) -> None:
        """Ask for the parts that come next, where a place of an epoch is the first that is read of its window. Threads may
        come to a border out of turn, so the last few windows that were asked for are remembered. A thread that finds its
        window among them waits until it has been asked for: it reads the parts next."""
        starts_K = self._windows.starts(epoch)
        window = int(np.searchsorted(starts_K, place, side="right")) - 1
        wanted = [(epoch, window)]
        if window + 2 < len(starts_K):
            wanted.append((epoch, window + 1))
        elif self._goes_on:
            wanted.append((epoch + 1, 0))
        with self._lock:
            new = [key for key in wanted if key not in self._asked]
            for key in new:
                self._ask(self._windows.parts(*key))
            self._asked = [*self._asked, *new][-4:]
