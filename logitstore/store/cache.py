"""Open and read a cache. Mapped arrays are not copied, and no part is opened before it is needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, overload

import numpy as np

from logitstore.core.memo import Memo
from logitstore.core.place import Place, split_scheme
from logitstore.core.registry import resolve
from logitstore.core.tasks import task_of
from logitstore.core.types import Array, CachedSample
from logitstore.errors import BadInput, CacheDamaged, LogitstoreError, way_out_of
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import Fidelity, PartRecord, Sums
from logitstore.store import layout
from logitstore.store.checks.soon import SizesSoon
from logitstore.store.index.columns import in_order
from logitstore.store.index.facts import added_fidelity, added_sums
from logitstore.store.index.index import LEAST_PARTS, PartsIndex
from logitstore.store.maps import MAPS
from logitstore.store.part import OpenFiles, Part, check_files, open_samples
from logitstore.store.samples import PartSamples
from logitstore.store.storage import Far, open_storage, prefetch, read_sealed
from logitstore.store.taps import Taps

COLUMNS = {"lengths": "lengths_S", "row_counts": "row_count_S", "documents": "document_S", "nll": "nll_S"}
"""The numbers of samples that `Cache.column` gives, and what `PartSamples` calls them."""

PART_WEIGHT = {"mapped": 2, "archive": 8}
"""What a part counts in the budget of maps, besides its rows: its samples are one map, and its record takes 17 kB of memory."""


class Cache:
    """A cache opened for reading: a sequence of samples with the teacher's answers about them.

    `len(cache)` counts the samples of the committed parts; `cache[i]` and slices give `CachedSample`s whose arrays are
    views of mapped files; `cache.loader(...)` gives batches of tensors.

    Attributes:
        path: where the cache lies: a `Path` on the local disk, or a text such as `s3://bucket/name`.
        storage: the storage there.
        manifest: the contents of `cache.json`.
        index: what is known of the committed parts.
    """

    def __init__(self, path: Place) -> None:
        """Read the manifest, and the index or the list of parts; no part is opened.

        Raises:
            NotACache: the folder has no manifest, a foreign one, or one of a newer format version.
            CacheDamaged: the manifest does not match its checksum.
            BadInput: no storage has the scheme of `path`.
        """
        self.storage = open_storage(path)
        self.path: Place = path if split_scheme(path)[0] else Path(path)
        self.manifest = read_sealed(Manifest, self.storage, MANIFEST_NAME)
        self._files = OpenFiles(self.storage, self.manifest)
        self.index = PartsIndex(self.storage, self.manifest, self.storage, "cache", self._samples_alone)
        self._parts = Memo[int, Part](MAPS, PART_WEIGHT[self.manifest.layout])
        self._soon: SizesSoon | None = None

    def __len__(self) -> int:
        return self.index.samples

    def __repr__(self) -> str:
        done = f"{self.index.parts} of {self.manifest.parts} parts"
        return f"<Cache {self.path}: {len(self):,} samples, {done}, teacher {self.manifest.teacher.name}>"

    @property
    def complete(self) -> bool:
        """True if every part of the plan is committed, also those of the tap in which a task keeps its rows, if it does."""
        return self.index.parts == self.manifest.parts and not self.taps.lacking

    @cached_property
    def part_numbers(self) -> list[int]:
        """Numbers of the committed parts, ascending."""
        numbers: list[int] = self.index.numbers_P.tolist()
        return numbers

    @property
    def records(self) -> list[PartRecord]:
        """The commit records of all committed parts; they are read once, at first use."""
        return self.index.records

    @property
    def rows(self) -> int:
        """Count of rows in the committed parts."""
        if self.complete:
            return self.manifest.rows * self.manifest.views
        return int(self.index.facts()["rows"].sum())

    @property
    def fidelity(self) -> Fidelity:
        """The measured fidelity of all committed parts together."""
        return added_fidelity(self.index.facts())

    @property
    def sums(self) -> Sums:
        """The sums over all committed parts."""
        return added_sums(self.index.facts())

    @cached_property
    def taps(self) -> Taps:
        """The taps of the cache (stored features of the teacher) by name, such as `hidden-8`; also incomplete ones."""
        return Taps(self.storage, self.manifest)

    def locate(self, index: int) -> tuple[Part, int]:
        """Return the part that holds sample `index`, and the index of the sample in this part.

        Raises:
            IndexError: there is no such sample.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a cache with {len(self)} samples")
        index %= len(self)
        place = int(np.searchsorted(self.index.first_samples_P, index, side="right")) - 1
        return self.part(int(self.index.numbers_P[place])), index - int(self.index.first_samples_P[place])

    def first_sample(self, number: int) -> int:
        """Return the index of the first sample of part `number` among all samples of the cache."""
        return int(self.index.first_samples_P[np.searchsorted(self.index.numbers_P, number)])

    def part(self, number: int) -> Part:
        """Return part `number`. It is opened at first use, and stays open as long as it is used; see `logitstore.store.maps`.

        Raises:
            CacheDamaged, CacheMismatch: see `Part`; or it is not the one that the index of the cache tells of.
        """
        return self._parts.get(number, partial(self._opened, number))

    def prefetch(self, parts: Sequence[int]) -> None:
        """Say which parts are needed next, the first one first, to a storage that fetches parts; it does not wait for them."""
        prefetch(self.storage, parts)

    def _opened(self, number: int) -> Part:
        try:
            part = Part(self._files, number)
        except LogitstoreError:
            self.index.check(number)
            raise
        self.index.check(number, part.samples)
        return part

    def _samples_alone(self, number: int) -> PartSamples:
        """Return the samples of a part, of which nothing stays open here."""
        return open_samples(self.storage, self.manifest, number, self.shared_samples)

    @property
    def shared_samples(self) -> Any:
        """What all parts share about their samples; see `OpenFiles.shared`."""
        return self._files.shared

    @property
    def whole_views(self) -> list[int]:
        """Numbers of the views whose parts are all committed."""
        count = self.manifest.parts_of_view
        return [
            int(view)
            for view, parts in zip(*np.unique(self.index.numbers_P // count, return_counts=True), strict=True)
            if parts == count
        ]

    def first_sample_of(self, view: int) -> int:
        """Return the index of the first sample of a whole view; its other images follow in their order."""
        return self.first_sample(view * self.manifest.parts_of_view)

    def samples_of(self, number: int) -> PartSamples:
        """Return the samples of part `number` without its rows, which costs less to open."""
        return self._files.samples(number)

    def places(self, samples_M: Array) -> tuple[Array, Array]:
        """Return the parts that hold some samples, and the indices of the samples in these parts, int64[M] each.

        Raises:
            IndexError: there is no sample with one of the indices.
        """
        if len(samples_M) and not 0 <= samples_M.min() <= samples_M.max() < len(self):
            raise IndexError(f"samples {samples_M.min()} to {samples_M.max()} of a cache with {len(self)} samples")
        place_M = np.searchsorted(self.index.first_samples_P, samples_M, side="right") - 1
        return self.index.numbers_P[place_M], samples_M - self.index.first_samples_P[place_M]

    def by_part(self, samples_M: Array) -> Iterator[tuple[int, Array, Array]]:
        """Group samples by part. Yield the part's number, the places of its samples in `samples_M`, and their indices in it."""
        parts_M, numbers_M = self.places(samples_M)
        order_M = np.argsort(parts_M, kind="stable")
        parts, starts = np.unique(parts_M[order_M], return_index=True)
        for part, (start, stop) in zip(parts.tolist(), pairwise([*starts.tolist(), len(order_M)]), strict=True):
            places = order_M[start:stop]
            yield part, places, numbers_M[places]

    def lengths_of(self, samples_M: Array) -> Array:
        """Return the count of tokens of some samples, int64[M]. No rows are opened."""
        if (lengths_S := self.index.column("lengths")) is not None:
            return lengths_S[samples_M].astype(np.int64)
        lengths_M = np.empty(len(samples_M), np.int64)
        for part, places, numbers in self.by_part(samples_M):
            lengths_M[places] = self.samples_of(part).lengths_S[numbers]
        return lengths_M

    def row_counts(self) -> Array:
        """Return the count of rows of every sample, int64."""
        return self.column("row_counts").astype(np.int64)

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

    def check_sizes(self, parts: Collection[int] | None = None) -> None:
        """Compare the size of every file with the manifest and the commit records. It is cheap, and finds truncated files.

        Args:
            parts: numbers of the parts to look at; those that are not there are left out. None for all.

        Raises:
            CacheDamaged: a size is wrong; the message names the first such part and file.
        """
        self._check_shared()
        self.index.check_sizes(parts)
        self.taps.check_kept(parts)

    def _check_shared(self) -> None:
        if not isinstance(self.storage, Far):
            check_files(self.storage, "", {name: seal.bytes for name, seal in self.manifest.shared.items()})

    def check_soon(self) -> None:
        """Check the sizes now where there are few parts, else on a thread: `raise_found` raises what that finds."""
        if self.index.parts < LEAST_PARTS:
            self.check_sizes()
        elif self._soon is None:
            self._check_shared()
            self._soon = SizesSoon(self.index)

    def raise_found(self) -> None:
        """Raise what `check_soon` has found so far, a CacheDamaged, if something."""
        if self._soon is not None:
            self._soon.raise_found()

    def check_targets(self, wanted: str) -> None:
        """Refuse a cache that stores scores only, for a use that needs the targets of rows.

        Raises:
            BadInput: it does; the message begins with `wanted`, the name of the use.
        """
        if not self.manifest.sparsifier.keeps_rows:
            told = "keeps scores only (preset 'scores'), nothing about its rows. Dump with another preset for that."
            if task_of(self.manifest.task).keeps is not None:
                told = "keeps vectors, and that is about distributions."
            raise BadInput(f"{wanted}: {self.path} {told}")

    def column(self, name: str) -> Array:
        """Return one number for every sample, [S]: `lengths`, `row_counts`, `documents` or `nll`.

        With an index they are mapped, in the smallest type that holds them; without one they are read from every part.
        """
        if (found := self.index.column(name)) is not None:
            return found
        # copies: views would keep the maps of all parts, which may be more than the system allows
        pieces = [np.array(getattr(self.samples_of(number), COLUMNS[name])) for number in self.part_numbers]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32 if name == "nll" else np.int64)

    def documents(self) -> Array:
        """Return the document of every sample, int64."""
        return self.column("documents").astype(np.int64)

    def keys(self) -> list[str]:
        """Return the key of every sample."""
        return list(chain.from_iterable(self.samples_of(number).keys() for number in self.part_numbers))

    def nll(self) -> Array:
        """Return the nll of every sample, float32: the mean negative logprob of its gold tokens, nats per row.

        Raises CacheDamaged: one is negative, or NaN where there is a gold token; BadInput: see `Manifest.check_nll`.
        """
        self.manifest.check_nll(self.path)
        nll_S = self.index.column("nll")
        numbers_P = self.index.numbers_P
        doubtful_P = numbers_P if nll_S is None else numbers_P[self.index.facts()["nll_is_wrong"] > 0]
        for number in doubtful_P.tolist():
            if problem := self.samples_of(number).nll_problem():
                raise CacheDamaged(
                    f"{self.path}: {layout.part_name(number)}/{layout.SAMPLES_FILE}: {problem}. {way_out_of(self.path)}"
                )
        return self.column("nll")

    def domains(self) -> list[str | None]:
        """Return the domain of every sample's document, or None if the data do not name it."""
        names, codes_S = self.domain_codes()
        return [names[code] for code in codes_S.tolist()]

    def domain_codes(self) -> tuple[list[str | None], Array]:
        """Return the domains of the samples in the order in which they come, and whole numbers [S]: which of them each has."""
        if (codes_S := self.index.column("domains")) is None:
            found = [name for number in self.part_numbers for name in self.samples_of(number).domains()]
            numbers = {name: number for number, name in enumerate(dict.fromkeys(found))}
            return list(numbers), np.array([numbers[name] for name in found], np.int64)
        return in_order([None, *(self.index.domain_names() or [])], codes_S)

    def lengths(self) -> Array:
        """Return the count of tokens of every sample, int64."""
        return self.column("lengths").astype(np.int64)

    def loader(self, **options: Any) -> Any:
        """Return batches of tensors in a reproducible order; `logitstore.train.loader.loader.Loader` has the options."""
        return resolve("logitstore.train.loader.loader:Loader")(self, **options)
