"""What is known of the committed parts of a cache or of a tap: their numbers at once, what they say of themselves when asked.

With an index in the cache that fits the parts that are there, no folder is listed and no part is opened for it. Otherwise the
first who asks reads the parts, and leaves an index behind where the cache can be written and has many parts.

Axes: P parts, S samples, F names of files.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import cached_property
from typing import TypeVar

import numpy as np

from logitstore.core.types import Array
from logitstore.errors import CacheMismatch, LogitstoreError
from logitstore.format.part_record import PartRecord
from logitstore.store import layout
from logitstore.store.index.columns import SAMPLE_COLUMNS, is_repeated
from logitstore.store.index.facts import FACTS, facts_of
from logitstore.store.index.gather import Known, OpenSamples, gathered
from logitstore.store.index.stored import (
    FOLDER,
    Held,
    Mapped,
    Unusable,
    drop_index,
    read_index,
    write_index,
    write_info,
)
from logitstore.store.part import PartsPlan, check_files, check_sizes, read_record
from logitstore.store.samples import PartSamples
from logitstore.store.storage import FULL, Far, Storage, record_digest, stamp_of

T = TypeVar("T")

_TOTALS = {"lengths": "tokens", "row_counts": "rows"}
"""Columns whose sums over the samples of a part its record says."""

LEAST_PARTS = 64
"""Least count of parts for which an index is looked for and made; fewer are read as quickly."""


class PartsIndex:
    """The committed parts of a cache or of a tap, as they were when it was opened.

    Attributes:
        parts: P, their count.
    """

    def __init__(
        self, storage: Storage, plan: PartsPlan, home: Storage, name: str, open_samples: OpenSamples | None = None
    ) -> None:
        """Find the numbers of the parts; open none.

        Args:
            storage: that of the cache or of the tap.
            plan: its plan.
            home: the storage of the cache, in which the index lies.
            name: of the index.
            open_samples: gives the samples of a part; None for a tap.

        Raises:
            CacheDamaged: the parts cannot be listed.
        """
        self._storage, self._plan, self._home, self._open_samples = storage, plan, home, open_samples
        self._folder = f"{FOLDER}/{name}"
        self._lock = threading.RLock()
        self._known: Known | None = None
        self._old: Known | None = None
        self._stamp: str | None = None
        self._is_given_up = False
        self._summed: set[str] = set()
        self.parts, self._numbers = self._begun()

    def _begun(self) -> tuple[int, Array | None]:
        """Return the count of the parts, and their numbers; None for those from 0 on, which need not be spelled out."""
        if self._plan.parts >= LEAST_PARTS:
            # before the parts are listed, so that what comes later than this is seen by its stamp
            self._stamp = stamp_of(self._storage, layout.PARTS)
            with suppress(Unusable):
                self._old = self._read()
                info = self._old.info
                is_fresh = self._stamp is not None and (info.stamp, info.planned) == (self._stamp, self._plan.parts)
                if is_fresh and (self._stamp != FULL or info.parts == info.planned):
                    numbers_P = None if info.are_first else self._old.numbers()
                    self._known = self._old
                    return info.parts, numbers_P
        listed = [part for part in self._storage.list_parts() if part < self._plan.parts]
        return len(listed), np.array(listed, np.int64)

    def _read(self) -> Known:
        """Return the index that lies in the cache. Raises Unusable: none of this plan does."""
        info = read_index(self._home, self._folder)
        if info.plan != self._plan.identity or not LEAST_PARTS <= info.parts <= min(info.planned, self._plan.parts):
            raise Unusable("plan")
        old = Known(info, Mapped(self._home, self._folder, info))
        samples = self._plan.samples_below(info.parts)
        if not info.are_first:
            samples = int(self._plan.sample_counts(old.numbers()).sum())
        if info.samples != (samples if self._open_samples else 0):
            raise Unusable("samples")
        expected = dict.fromkeys(("digests", "facts"), info.parts) | {"sizes": info.parts * len(info.files)}
        if self._open_samples:
            expected |= dict.fromkeys(SAMPLE_COLUMNS, samples)
        for name, count in expected.items():
            if name not in info.columns or info.columns[name].count != count:
                raise Unusable(name)
        return old

    @cached_property
    def numbers_P(self) -> Array:
        """int64[P]: the numbers of the parts, rising."""
        return np.arange(self.parts) if self._numbers is None else self._numbers

    @property
    def samples(self) -> int:
        """The count of samples of all parts."""
        return self._plan.samples_below(self.parts) if self._numbers is None else int(self.first_samples_P[-1])

    @cached_property
    def first_samples_P(self) -> Array:
        """int64[P + 1]: the first sample of each part among those of all parts, and the count of all samples."""
        return np.concatenate([[0], np.cumsum(self._plan.sample_counts(self.numbers_P))])

    @cached_property
    def records(self) -> list[PartRecord]:
        """The commit records of all parts; they are read once, at first use."""
        return [read_record(self._storage, self._plan, part) for part in self.numbers_P.tolist()]

    def make(self) -> None:
        """Leave an index behind, if there are enough parts and none is there. Raises as `facts` does."""
        self._asked(lambda _: None)

    def facts(self) -> Array:
        """Return FACTS[P], what the commit records say.

        Raises:
            CacheDamaged, CacheMismatch: a part is damaged, or of another plan.
        """
        found = self._asked(lambda known: known.of_parts("facts"))
        return np.array([facts_of(record) for record in self.records], FACTS) if found is None else found

    def bytes_below(self, prefix: str) -> int:
        """Return the bytes of those files of all parts whose names begin with `prefix`. Raises as `facts` does."""
        found = self._asked(lambda known: (known.info.files, known.of_parts("sizes")))
        if found is None:
            files = [item for record in self.records for item in record.files.items()]
            return sum(seal.bytes for name, seal in files if name.startswith(prefix))
        places = [place for place, name in enumerate(found[0]) if name.startswith(prefix)]
        return int(np.maximum(found[1][:, places], 0).sum())

    def column(self, name: str) -> Array | None:
        """Return one of the columns of the samples, [S]; None where there are too few parts for an index.

        Raises:
            CacheDamaged, CacheMismatch: see `facts`.
        """
        return self._asked(lambda known: self._checked(known, name))

    def domain_names(self) -> list[str] | None:
        """Return the names of the domains that the column `domains` numbers from 1; None as for `column`."""
        return self._asked(lambda known: list(known.names()))

    def _checked(self, known: Known, name: str) -> Array:
        values_S = known.of_samples(name)
        # of a far cache this would cost one request more before the first part, which is compared with its columns anyway
        is_near = not isinstance(self._storage, Far)
        if is_near and name in _TOTALS and name not in self._summed and len(values_S):
            if is_repeated(values_S):
                totals_P = np.diff(self.first_samples_P) * int(values_S[0])
            else:
                totals_P = np.add.reduceat(values_S, self.first_samples_P[:-1], dtype=np.int64)
            if not np.array_equal(totals_P, known.of_parts("facts")[_TOTALS[name]]):
                raise Unusable(name)
            self._summed.add(name)
        return values_S

    def _asked(self, ask: Callable[[Known], T]) -> T | None:
        """Return what an index says, which is made if it must; None where there are too few parts for one."""
        with self._lock:
            for _ in range(2):
                if self._known is None and self.parts >= LEAST_PARTS and not self._is_given_up:
                    self._known = self._made()
                if self._known is None:
                    return None
                try:
                    return ask(self._known)
                except Unusable:
                    self._known = self._old = None  # what lies there is damaged
                    self._summed.clear()
            self._is_given_up = True
            return None

    def _made(self) -> Known | None:
        arguments = self._storage, self._plan, self.numbers_P, self._open_samples
        try:
            try:
                known = gathered(*arguments, self._old)
            except Unusable:
                self._old = None
                known = gathered(*arguments, None)
        except Unusable:
            self._is_given_up = True
            return None
        return self._kept(known)

    def _kept(self, known: Known) -> Known:
        """Leave an index behind, where the cache can be written."""
        info = known.info.model_copy(update={"stamp": self._stamp, "planned": self._plan.parts})
        if known is self._old and info == known.info:
            return known
        with suppress(OSError, LogitstoreError):
            if isinstance(known.columns, Held):
                info = write_index(self._home, self._folder, info, known.columns.by_name)
            else:
                write_info(self._home, self._folder, info)
            return Known(info, Mapped(self._home, self._folder, info))
        return known

    def copy_to(self, parts: Storage, home: Storage, digests_P: Array) -> None:
        """Leave this index beside a copy of all parts, where the copy can be written.

        Args:
            parts, home: the storages of the copied parts and of the copied cache.
            digests_P: S32[P], the digits that seal the commit records of the copied parts, empty for one that was not copied.

        Raises:
            CacheDamaged, CacheMismatch: see `facts`.
        """
        known = self._asked(lambda known: known)
        with suppress(OSError, LogitstoreError, Unusable):
            if known is None or not np.array_equal(known.of_parts("digests"), digests_P):
                return
            held = known.columns.by_name if isinstance(known.columns, Held) else None
            columns = held or {name: known.columns.get(name) for name in known.info.columns}
            stamp = stamp_of(parts, layout.PARTS)
            info = known.info.model_copy(update={"stamp": stamp, "planned": self._plan.parts})
            write_index(home, self._folder, info, columns)

    def check(self, number: int, samples: PartSamples | None = None) -> None:
        """Compare a part that is opened with what was believed of it.

        Args:
            number: of the part.
            samples: those of the part, if they are open.

        Raises:
            CacheMismatch: it is another one. The index is removed, so that the next who asks reads the parts.
        """
        if self._known is None:
            return
        place = int(np.searchsorted(self.numbers_P, number))
        digests_P = self._asked(lambda known: known.of_parts("digests"))
        try:
            is_same = digests_P is None or digests_P[place] == record_digest(self._storage, number)
        except OSError:
            is_same = False
        if is_same and samples is not None and self._open_samples is not None:
            is_same = self._has_samples(slice(*self.first_samples_P[place : place + 2].tolist()), samples)
        if not is_same:
            drop_index(self._home, self._folder)
            raise CacheMismatch(
                f"{self._storage}: part {number:05d} is not the one that {self._folder} tells of: it was changed or removed "
                "after it was committed. That index is removed now; give the same command again, which makes a new one."
            )

    def _has_samples(self, span: slice, samples: PartSamples) -> bool:
        values = {
            "lengths": samples.lengths_S,
            "row_counts": samples.row_count_S,
            "documents": samples.document_S,
            "nll": samples.nll_S,
        }
        columns = {name: self.column(name) for name in values}
        return all(
            column_S is None or np.array_equal(column_S[span], values[name], equal_nan=name == "nll")
            for name, column_S in columns.items()
        )

    def check_sizes(self, parts: Collection[int] | None = None) -> None:
        """Compare the size of every file of some parts with what the commit records say.

        Args:
            parts: their numbers; those that are not there are left out. None for all, which an index is made for.

        Raises:
            CacheDamaged: a size is wrong; the message names the first such part and file.
            CacheMismatch: a part is of another plan; or see `check`.
        """
        if parts is None:
            self.check_places(slice(None))
            return
        there = set() if isinstance(self._storage, Far) else set(self.numbers_P.tolist())
        for number in sorted(set(parts) & there):
            check_sizes(self._storage, number, read_record(self._storage, self._plan, number))

    def check_places(self, places: slice) -> None:
        """Do the same for the parts at some places among all. Those of a far storage are checked as they come here."""
        if isinstance(self._storage, Far):
            return
        found = self._asked(lambda known: (known.info.files, known.of_parts("sizes")))
        if found is None:
            for record in self.records[places]:
                check_sizes(self._storage, record.part, record)
            return
        for number, sizes_F in zip(self.numbers_P[places].tolist(), found[1][places].tolist(), strict=True):
            files = {name: size for name, size in zip(found[0], sizes_F, strict=True) if size >= 0}
            check_files(self._storage, f"{layout.part_name(number)}/", files)
            self.check(number)
