"""Gather the columns of an index from the parts: from all of them, or from those that an older index does not know.

Axes: P parts, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from logitstore.core.background import Workers
from logitstore.core.types import Array
from logitstore.store.index.columns import (
    SAMPLE_COLUMNS,
    columns_of,
    joined,
    narrowed,
    packed_names,
    renumbered,
    unpacked_names,
)
from logitstore.store.index.facts import FACTS, MOST_FILES, facts_of, sizes_of
from logitstore.store.index.stored import Columns, Held, IndexInfo, Unusable
from logitstore.store.part import PartsPlan, read_record
from logitstore.store.samples import PartSamples
from logitstore.store.storage import Storage, record_digest

T = TypeVar("T")

OpenSamples = Callable[[int], PartSamples]
"""Gives the samples of a part by its number."""

THREADS = 4
"""Threads that read parts: a disk far away answers several at a time."""

_PIECE = 64
"""Parts that a thread reads at a time."""


@dataclass(frozen=True)
class Known:
    """An index: what it says of itself, and its columns."""

    info: IndexInfo
    columns: Columns

    def numbers(self) -> Array:
        """Return int64[P], the numbers of its parts, rising and below the count of parts of its plan. Raises Unusable."""
        if self.info.are_first:
            return np.arange(self.info.parts)
        numbers_P = self.columns.get("numbers").astype(np.int64)
        if len(numbers_P) != self.info.parts or not (np.diff(numbers_P, prepend=-1) > 0).all():
            raise Unusable("numbers")
        if len(numbers_P) and numbers_P[-1] >= self.info.planned:
            raise Unusable("numbers")
        return numbers_P

    def of_parts(self, name: str) -> Array:
        """Return a column with an entry for each part; of `sizes` one for each name of a file besides. Raises Unusable."""
        values, count = self.columns.get(name), self.info.parts
        if name == "sizes":
            files = len(self.info.files)
            if len(values) != count * files:
                raise Unusable(name)
            return values.reshape(count, files)
        if len(values) != count:
            raise Unusable(name)
        return values

    def of_samples(self, name: str) -> Array:
        """Return a column with an entry for each sample. Raises Unusable."""
        values = self.columns.get(name)
        if len(values) != self.info.samples:
            raise Unusable(name)
        return values

    def names(self) -> dict[str, int]:
        """Return the numbers of the domains, which are all that `domains` has. Raises Unusable."""
        try:
            names = unpacked_names(self.columns.get("domain_text"), self.columns.get("domain_ends"))
        except ValueError as error:
            raise Unusable("domain_text") from error
        if int(self.of_samples("domains").max(initial=0)) > len(names):
            raise Unusable("domains")
        return names


def digests_of(storage: Storage, numbers_P: Array) -> Array:
    """Return S32[P]: the digits that seal the commit records of some parts, empty for a record that cannot be read."""
    return np.array(in_threads(lambda number: _digest(storage, number), numbers_P.tolist()), "S32")


def _digest(storage: Storage, number: int) -> bytes:
    try:
        return record_digest(storage, number)
    except OSError:
        return b""


def gathered(
    storage: Storage, plan: PartsPlan, numbers_P: Array, open_samples: OpenSamples | None, old: Known | None
) -> Known:
    """Return the index of some parts.

    Args:
        storage: that of the cache or of the tap.
        plan: its plan.
        numbers_P: int64[P], the parts, rising.
        open_samples: gives the samples of a part; None for the parts of a tap, which have none.
        old: an index of the same plan; what it says of parts whose commit record has not changed is taken over.

    Raises:
        CacheDamaged, CacheMismatch: a part is damaged, or of another plan.
        Unusable: the old index is damaged.
    """
    digests_P = digests_of(storage, numbers_P)
    places_P = np.full(len(numbers_P), -1, np.int64)
    if old is not None and old.info.parts:
        before = old.numbers()
        found_P = np.minimum(np.searchsorted(before, numbers_P), len(before) - 1)
        is_kept_P = (
            (before[found_P] == numbers_P) & (old.of_parts("digests")[found_P] == digests_P) & (digests_P != b"")
        )
        places_P[is_kept_P] = found_P[is_kept_P]
        if is_kept_P.all() and len(before) == len(numbers_P):
            return old
    return _Made(storage, plan, open_samples, old).index(numbers_P, digests_P, places_P)


class _Made:
    """An index in the making: some of its parts are read, what an older index says of the others is taken over."""

    def __init__(self, storage: Storage, plan: PartsPlan, open_samples: OpenSamples | None, old: Known | None) -> None:
        self._storage, self._plan, self._open_samples, self._old = storage, plan, open_samples, old
        self._files = [] if old is None else list(old.info.files)

    def index(self, numbers_P: Array, digests_P: Array, places_P: Array) -> Known:
        """Return the index.

        Args:
            numbers_P: int64[P], the parts.
            digests_P: S32[P], the digits that seal their commit records.
            places_P: int64[P], where the older index has each part; -1 for those that are read.
        """
        read = in_threads(self._read, numbers_P[places_P < 0].tolist())
        columns = {"digests": digests_P, **self._of_parts(places_P, read)}
        are_first = bool((numbers_P == np.arange(len(numbers_P))).all())
        if not are_first:
            columns["numbers"] = narrowed(numbers_P)
        if self._open_samples is not None:
            columns |= self._of_samples(numbers_P, places_P, read)
        info = IndexInfo(
            plan=self._plan.identity,
            planned=self._plan.parts,
            stamp=None,
            parts=len(numbers_P),
            are_first=are_first,
            samples=len(columns.get("nll", ())),
            files=self._files,
            columns={},
        )
        return Known(info, Held(columns))

    def _read(self, number: int) -> _Read:
        record = read_record(self._storage, self._plan, number)
        columns: dict[str, Array] = {}
        names: list[str] = []
        is_wrong = False
        if self._open_samples is not None:
            samples = self._open_samples(number)
            columns, names = columns_of(samples)
            is_wrong = samples.nll_problem() is not None
        sizes = {name: seal.bytes for name, seal in record.files.items()}
        return _Read(facts_of(record, nll_is_wrong=is_wrong), sizes, columns, names)

    def _of_parts(self, places_P: Array, read: Sequence[_Read]) -> dict[str, Array]:
        """Return the columns with an entry for each part."""
        new_sizes = sizes_of([each.sizes for each in read], self._files)
        if len(self._files) > MOST_FILES:
            raise Unusable("files")
        facts_P = np.zeros(len(places_P), FACTS)
        sizes_PF = np.full((len(places_P), len(self._files)), -1, np.int64)
        is_new_P = places_P < 0
        if read:
            facts_P[is_new_P] = [each.facts for each in read]
            sizes_PF[is_new_P] = new_sizes
        if self._old is not None:
            kept = places_P[~is_new_P]
            facts_P[~is_new_P] = self._old.of_parts("facts")[kept]
            old_sizes = self._old.of_parts("sizes")[kept]
            sizes_PF[~is_new_P, : old_sizes.shape[1]] = old_sizes
        return {"facts": facts_P, "sizes": sizes_PF.reshape(-1)}

    def _of_samples(self, numbers_P: Array, places_P: Array, read: Sequence[_Read]) -> dict[str, Array]:
        """Return the columns with an entry for each sample, made of runs of parts that are neighbours in their source."""
        names = {} if self._old is None else self._old.names()
        for each in read:
            each.columns["domains"] = renumbered(each.columns["domains"], each.names, names)
        is_new_P = places_P < 0
        source_P = np.where(is_new_P, np.cumsum(is_new_P) - 1, places_P)
        breaks = np.flatnonzero((np.diff(source_P) != 1) | (np.diff(is_new_P.astype(np.int8)) != 0)) + 1
        starts = [0, *breaks.tolist()]
        runs = list(zip(starts, [*starts[1:], len(places_P)], strict=True))
        ends = None if self._old is None else np.cumsum(self._plan.sample_counts(self._old.numbers()))
        made = {}
        for name in SAMPLE_COLUMNS:
            pieces: list[Array] = []
            for start, stop in runs:
                first, last = int(source_P[start]), int(source_P[stop - 1])
                if is_new_P[start]:
                    pieces += [each.columns[name] for each in read[first : last + 1]]
                elif self._old is not None and ends is not None:
                    begin = int(ends[first - 1]) if first else 0
                    pieces.append(self._old.of_samples(name)[begin : int(ends[last])])
            made[name] = joined(pieces)
            if len(made[name]) != int(self._plan.sample_counts(numbers_P).sum()):
                raise Unusable(name)
        return made | packed_names(names)


@dataclass(frozen=True)
class _Read:
    """What was read of one part."""

    facts: tuple[object, ...]
    sizes: dict[str, int]
    columns: dict[str, Array]
    names: list[str]


def in_threads(work: Callable[[int], T], numbers: Sequence[int]) -> list[T]:
    """Do a piece of work for each number, on some threads; return what came of it, in order."""
    pieces = [numbers[start : start + _PIECE] for start in range(0, len(numbers), _PIECE)]
    workers = Workers(min(THREADS, len(pieces)))
    try:
        pending = [workers.submit(lambda some: [work(number) for number in some], piece) for piece in pieces]
        return [each for piece in pending for each in piece.result()]
    finally:
        workers.close(drop=True)
