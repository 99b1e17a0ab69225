"""Opening a cache and reading it: nothing is copied, and nothing is touched before it is asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from logitstore.core.registry import resolve
from logitstore.core.types import Array, CachedSample
from logitstore.errors import BadInput
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity, PartRecord, Sums, add_fidelity, add_sums
from logitstore.format.sealed import unseal
from logitstore.store import layout
from logitstore.store.part import OPEN_ARCHIVES, Part, Shelf, check_files, check_sizes, open_samples, read_record
from logitstore.store.samples import PartSamples, stored_samples
from logitstore.store.taps import Taps

OPEN_PARTS = 4096
"""Parts kept open. Each maps a file a field, and a process may have 65,530 maps on Linux."""


class Cache:
    """A cache opened for reading: a sequence of samples with what the teacher said about them.

    `len(cache)` counts the samples of the committed parts; `cache[i]` and slices give `CachedSample`s whose arrays are
    views of mapped files; `cache.loader(...)` gives batches of tensors.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the manifest and list the parts; no part is opened.

        Raises:
            NotACache: no manifest there, a foreign one, or one of a newer format version.
            CacheDamaged: the manifest does not match its checksum.
        """
        self.path = Path(path)
        self.manifest = unseal(Manifest, self.path / MANIFEST_NAME)
        self.part_numbers = [part for part in layout.committed_parts(self.path) if part < self.manifest.parts]
        counts = [self.manifest.samples_in(part) for part in self.part_numbers]
        self._numbers_P = np.array(self.part_numbers, np.int64)
        self._first_sample_P = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._parts: OrderedDict[int, Part] = OrderedDict()
        self._samples: dict[int, PartSamples] = {}
        self._lock = threading.Lock()
        self._shelf = Shelf(OPEN_ARCHIVES)

    def __len__(self) -> int:
        return int(self._first_sample_P[-1])

    def __repr__(self) -> str:
        done = f"{len(self.part_numbers)} of {self.manifest.parts} parts"
        return f"<Cache {self.path}: {len(self):,} samples, {done}, teacher {self.manifest.teacher.name}>"

    @property
    def complete(self) -> bool:
        """Whether every part of the plan is committed."""
        return len(self.part_numbers) == self.manifest.parts

    @cached_property
    def records(self) -> list[PartRecord]:
        """The commit records of all committed parts; read once, when first asked for."""
        return [read_record(self.path, self.manifest, part) for part in self.part_numbers]

    @property
    def rows(self) -> int:
        """Rows in the committed parts."""
        if self.complete:
            return self.manifest.rows * self.manifest.views
        return sum(record.rows for record in self.records)

    @property
    def fidelity(self) -> Fidelity:
        """How far what is stored was found to be from what the teacher said, over all committed parts."""
        return add_fidelity([record.fidelity for record in self.records])

    @property
    def sums(self) -> Sums:
        """What the parts added up, over all of them."""
        return add_sums([record.sums for record in self.records])

    @cached_property
    def taps(self) -> Taps:
        """Features of the teacher that are stored beside the parts, by name, such as `hidden-8`; complete or not."""
        return Taps(self.path, self.manifest)

    def locate(self, index: int) -> tuple[Part, int]:
        """The part that holds sample `index`, and the sample's number in it."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a cache with {len(self)} samples")
        index %= len(self)
        place = int(np.searchsorted(self._first_sample_P, index, side="right")) - 1
        return self.part(self.part_numbers[place]), index - int(self._first_sample_P[place])

    def first_sample(self, number: int) -> int:
        """The number of the first sample of part `number` among all samples of the cache."""
        return int(self._first_sample_P[np.searchsorted(self._numbers_P, number)])

    def part(self, number: int) -> Part:
        """Part `number`, opened when first asked for and kept, the last few thousand; of an archive, the rows of fewer."""
        with self._lock:
            found = self._parts.get(number)
            if found is None:
                opened = self._samples.get(number)
                found = self._parts[number] = Part(
                    self.path, self.manifest, number, self._shelf, opened, self.shared_samples
                )
                self._samples[number] = found.samples
                if len(self._parts) > OPEN_PARTS:
                    self._samples.pop(self._parts.popitem(last=False)[0])
            return found

    @cached_property
    def shared_samples(self) -> Any:
        """What all parts share about their samples, such as the images of a cache of views; None if they share nothing.

        Raises:
            CacheDamaged: the file is missing, truncated, foreign or outside the cache.
        """
        return stored_samples(self.manifest).open_shared(self.path, self.manifest)

    @property
    def whole_views(self) -> list[int]:
        """Views of which every part is committed."""
        count = self.manifest.parts_of_view
        return [
            int(view)
            for view, parts in zip(*np.unique(self._numbers_P // count, return_counts=True), strict=True)
            if parts == count
        ]

    def first_sample_of(self, view: int) -> int:
        """The number of a whole view's first sample; its other images follow in their order."""
        return self.first_sample(view * self.manifest.parts_of_view)

    def samples_of(self, number: int) -> PartSamples:
        """The samples of part `number`, without its rows, which costs less to open."""
        found = self._samples.get(number)
        if found is None:
            found = open_samples(self.path, self.manifest, number, self.shared_samples)
            if len(self._samples) < OPEN_PARTS:
                self._samples[number] = found
        return found

    def places(self, samples_M: Array) -> tuple[Array, Array]:
        """int64[M] each: the parts that hold some samples, and the samples' numbers in them.

        Raises:
            IndexError: a number is not of a sample.
        """
        if len(samples_M) and not 0 <= samples_M.min() <= samples_M.max() < len(self):
            raise IndexError(f"samples {samples_M.min()} to {samples_M.max()} of a cache with {len(self)} samples")
        place_M = np.searchsorted(self._first_sample_P, samples_M, side="right") - 1
        return self._numbers_P[place_M], samples_M - self._first_sample_P[place_M]

    def by_part(self, samples_M: Array) -> Iterator[tuple[int, Array, Array]]:
        """Part by part: its number, which of some samples it holds, and their numbers in it."""
        parts_M, numbers_M = self.places(samples_M)
        order_M = np.argsort(parts_M, kind="stable")
        parts, starts = np.unique(parts_M[order_M], return_index=True)
        for part, (start, stop) in zip(parts.tolist(), pairwise([*starts.tolist(), len(order_M)]), strict=True):
            own = order_M[start:stop]
            yield part, own, numbers_M[own]

    def lengths_of(self, samples_M: Array) -> Array:
        """int64[M]: tokens of some samples; opens no rows."""
        found_M = np.empty(len(samples_M), np.int64)
        for part, own, numbers in self.by_part(samples_M):
            found_M[own] = self.samples_of(part).lengths_S[numbers]
        return found_M

    def row_counts(self) -> Array:
        """int64: rows of every sample."""
        parts = [self.samples_of(number).row_count_S for number in self.part_numbers]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    @overload
    def __getitem__(self, index: int) -> CachedSample: ...
    @overload
    def __getitem__(self, index: slice) -> list[CachedSample]: ...
    def __getitem__(self, index: int | slice) -> CachedSample | list[CachedSample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part, number = self.locate(index)
        return part[number]

    def __iter__(self) -> Iterator[CachedSample]:
        return (self[number] for number in range(len(self)))

    def check_sizes(self) -> None:
        """Compare the size of every file with the manifest and the commit records: cheap, and enough to find truncation.

        Raises:
            CacheDamaged: naming the first bad part and file.
        """
        check_files(self.path, "", self.manifest.shared)
        for record in self.records:
            check_sizes(self.path, record.part, record)

    def check_targets(self, wanted: str) -> None:
        """Refuse a cache of scores where what the teacher said about rows is needed.

        Args:
            wanted: what needs it, to begin the message with.

        Raises:
            BadInput: only scores are kept.
        """
        if not self.manifest.sparsifier.keeps_rows:
            raise BadInput(
                f"{wanted}: {self.path} keeps scores only (preset 'scores'), nothing about its rows. "
                "Dump with another preset for that."
            )

    def documents(self) -> Array:
        """int64: for every sample, the document it was cut from."""
        parts = [self.samples_of(number).document_S for number in self.part_numbers]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def keys(self) -> list[str]:
        """The key of every sample."""
        return list(chain.from_iterable(self.samples_of(number).keys() for number in self.part_numbers))

    def nll(self) -> Array:
        """float32: for every sample, the teacher's mean negative logprob of its gold tokens, nats per row."""
        parts = [self.samples_of(number).nll_S for number in self.part_numbers]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def domains(self) -> list[str | None]:
        """For every sample, where its document comes from, if the data say so."""
        return [name for number in self.part_numbers for name in self.samples_of(number).domains()]

    def lengths(self) -> Array:
        """int64: tokens of every sample."""
        parts = [self.samples_of(number).lengths_S for number in self.part_numbers]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)

    def loader(self, **options: Any) -> Any:
        """Return batches of tensors in a reproducible order; `logitstore.train.loader.loader.Loader` has the options."""
        return resolve("logitstore.train.loader.loader:Loader")(self, **options)
