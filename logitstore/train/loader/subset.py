"""Some of the samples of a cache, in their order, held in little memory however many there are.

Axes: S samples of the cache, M places among the chosen ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from logitstore.core.types import Array

_BLOCK = 1 << 20


class SampleSet:
    """The chosen ones of samples 0 to S - 1, rising: a sequence of numbers, of which the smaller side is held, the chosen
    or the others, in 4 bytes each.

    Number m of the chosen ones, where the others are held as a_0 < a_1 < ..., is m + j, where j is the count of those i with
    a_i - i <= m: the others that lie below it.
    """

    def __init__(self, is_chosen_S: Array, first: int = 0) -> None:
        """Choose samples.

        Args:
            is_chosen_S: bool[S].
            first: is added to all numbers.
        """
        self._count, self._first = len(is_chosen_S), first
        self._chosen = int(np.count_nonzero(is_chosen_S))
        self._holds_chosen = 2 * self._chosen <= self._count
        kind = np.uint32 if self._count < 1 << 32 else np.int64
        blocks = range(0, self._count, _BLOCK)
        held = [
            (np.flatnonzero(is_chosen_S[start : start + _BLOCK] == self._holds_chosen) + start).astype(kind)
            for start in blocks
        ]
        self._held: Array = np.concatenate(held) if held else np.zeros(0, kind)
        if not self._holds_chosen:
            self._held -= np.arange(len(self._held), dtype=kind)

    def __len__(self) -> int:
        return self._chosen

    def __getitem__(self, places_M: Any) -> Any:
        """Return int64[M]: the numbers of the chosen samples at some places; of one place, or of a slice, as of an array."""
        if isinstance(places_M, slice):
            places_M = np.arange(*places_M.indices(len(self)))
        places_M = np.asarray(places_M, np.int64)
        if places_M.size and not -len(self) <= places_M.min() <= places_M.max() < len(self):
            raise IndexError(f"places {places_M.min()} to {places_M.max()} of {len(self)} samples")
        places_M = np.where(places_M < 0, places_M + len(self), places_M)
        if self._holds_chosen:
            return self._held[places_M].astype(np.int64) + self._first
        return places_M + np.searchsorted(self._held, places_M.astype(self._held.dtype), side="right") + self._first

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK].tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return np.asarray(self[:], dtype)

    def count_below(self, numbers_P: Array) -> Array:
        """Return int64[P]: how many of the chosen samples have smaller numbers than each of some numbers."""
        inside_P = np.clip(np.asarray(numbers_P, np.int64) - self._first, 0, self._count)
        if self._holds_chosen:
            return np.searchsorted(self._held, inside_P.astype(self._held.dtype)).astype(np.int64)
        # a_i rises strictly: search for the first i with a_i = held_i + i not below the number, without spelling a out
        low_P, high_P = np.zeros(len(inside_P), np.int64), np.full(len(inside_P), len(self._held), np.int64)
        while (is_open_P := low_P < high_P).any():
            middle_P = np.where(is_open_P, (low_P + high_P) // 2, 0)
            is_below_P = is_open_P & (self._held[middle_P].astype(np.int64) + middle_P < inside_P)
            low_P = np.where(is_below_P, middle_P + 1, low_P)
            high_P = np.where(is_open_P & ~is_below_P, middle_P, high_P)
        return inside_P - low_P

    def mask(self) -> Array:
        """Return bool[S]: which samples are chosen."""
        is_chosen_S = np.full(self._count, not self._holds_chosen)
        if self._holds_chosen:
            is_chosen_S[self._held] = True
        else:
            is_chosen_S[self._held + np.arange(len(self._held), dtype=self._held.dtype)] = False
        return is_chosen_S

    def largest_of(self, values_S: Array) -> Any:
        """Return the largest of the values of the chosen samples. Raises ValueError: none is chosen."""
        is_chosen_S, largest = self.mask(), values_S.max()
        for start in range(0, self._count, _BLOCK):
            # most often the first block has one
            if (is_chosen_S[start : start + _BLOCK] & (values_S[start : start + _BLOCK] == largest)).any():
                return largest
        return values_S[is_chosen_S].max()
