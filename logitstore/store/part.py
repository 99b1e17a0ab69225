"""One committed part: its files against the commit record, its samples and its rows, mapped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np

from logitstore.core.memo import Budget, Memo
from logitstore.core.types import Answer, Array, CachedSample
from logitstore.errors import CacheDamaged, CacheMismatch, one_line, storage_errors, way_out_of
from logitstore.format.codecs.answer import RowCodec
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.format.row import FieldInfo
from logitstore.format.sealed import FileSeal, seal_of, seal_of_bytes
from logitstore.store import layout
from logitstore.store.checks.rows import check_values
from logitstore.store.maps import MAPS
from logitstore.store.rows import map_rows, needed_files, read_rows
from logitstore.store.samples import PartSamples, stored_samples
from logitstore.store.storage import Storage, read_sealed


class PartsPlan(Protocol):
    """The plan of parts: a manifest, or the plan of a tap."""

    @property
    def identity(self) -> str: ...

    @property
    def fields(self) -> dict[str, FieldInfo]: ...

    @property
    def layout(self) -> str: ...

    @property
    def parts(self) -> int: ...

    def samples_in(self, part: int) -> int:
        """Return the count of samples in part number `part`."""
        ...

    def samples_below(self, part: int) -> int:
        """Return the count of samples in all parts with smaller numbers."""
        ...

    def sample_counts(self, parts_P: Array) -> Array:
        """Return int64[P]: the counts of samples in some parts."""
        ...


def open_record(storage: Storage, plan: PartsPlan, number: int, also: Iterable[str] = ()) -> PartRecord:
    """Return the commit record of a part, after checking that it lists all needed files and that they have the right sizes.

    Args:
        storage: that of a cache or of a tap.
        plan: that of the cache or of the tap.
        number: of the part.
        also: files that are needed besides the rows.

    Raises:
        CacheDamaged: a file is missing, truncated or outside the cache.
        CacheMismatch: the part was written under another plan.
    """
    record = read_record(storage, plan, number)
    check_sizes(storage, number, record)
    rows = needed_files(plan.fields, plan.layout, record.rows)
    # only the listed files were checked not to lead outside the cache, so no other file may be opened
    needed = {*also, *(f"{layout.ROWS_FOLDER}/{file}" for file in rows)}
    if unlisted := sorted(needed - record.files.keys()):
        raise CacheDamaged(f"{storage}: the record of part {number:05d} does not list {', '.join(unlisted)}.")
    return record


def read_record(storage: Storage, plan: PartsPlan, number: int) -> PartRecord:
    """Return the commit record of a part.

    Raises:
        CacheDamaged: the record is broken, or about another part.
        CacheMismatch: the record belongs to another plan.
    """
    record = read_sealed(PartRecord, storage, layout.record_name(number))
    if record.plan != plan.identity:
        raise CacheMismatch(f"{storage}: part {number:05d} was written under another plan. {way_out_of(storage)}")
    if record.part != number or record.samples != plan.samples_in(number):
        raise CacheDamaged(
            f"{storage}: the record of part {number:05d} is about another part. Run `logitstore verify`."
        )
    return record


def check_sizes(storage: Storage, number: int, record: PartRecord) -> None:
    """Raise CacheDamaged if a file of the part is missing, or its size differs from its seal."""
    check_files(storage, f"{layout.part_name(number)}/", {name: seal.bytes for name, seal in record.files.items()})


def check_files(storage: Storage, folder: str, sizes: dict[str, int]) -> None:
    """Raise CacheDamaged if one of the files below `folder` is missing, or has another size."""
    for name, expected in sizes.items():
        size = storage.size(f"{folder}{name}")
        if size != expected:
            what = "is missing" if size is None else f"has {size} bytes instead of {expected}"
            raise CacheDamaged(f"{storage}: {folder}{name} {what}. {way_out_of(storage)}")


def check_seals(storage: Storage, folder: str, seals: Mapping[str, FileSeal]) -> None:
    """Read files below `folder` and compare them with their seals.

    Raises:
        CacheDamaged: a file is missing, or is another one.
        StorageError: the system refuses to read it.
    """
    check_files(storage, folder, {name: seal.bytes for name, seal in seals.items()})
    for name, expected in seals.items():
        with storage_errors(storage):
            if seal_of(storage.local(f"{folder}{name}")) != expected:
                raise CacheDamaged(f"{storage}: {folder}{name} is not what its seal says. {way_out_of(storage)}")


def read_shared(storage: Storage, seals: dict[str, FileSeal]) -> dict[str, bytes]:
    """Return the contents of shared files by their names, for use beside the cache: each is what its seal says.

    Raises:
        CacheDamaged: a file is missing, no file, or another one.
        StorageError: the system refuses to read it.
    """
    contents = {}
    for name, expected in seals.items():
        try:
            with storage_errors(storage):
                contents[name] = content = storage.read(name)
        except FileNotFoundError as error:
            raise CacheDamaged(f"{storage}: {name} is missing. {way_out_of(storage)}") from error
        except OSError as error:  # a folder in its place
            raise CacheDamaged(f"{storage}: {name} cannot be read: {one_line(error)}. {way_out_of(storage)}") from error
        if seal_of_bytes(content) != expected:
            raise CacheDamaged(f"{storage}: {name} is not what its seal says. {way_out_of(storage)}")
    return contents


OPEN_ARCHIVES = 8
"""Largest count of decompressed parts of an archive that are kept."""


class OpenFiles:
    """The files of a cache's parts that are open, as long as they are used: maps, or what was decompressed of an archive."""

    def __init__(self, storage: Storage, manifest: Manifest, shared: Any = None) -> None:
        """Open nothing.

        Args:
            storage: that of the cache.
            manifest: that of the cache.
            shared: what all parts share about the samples, if it is open already.
        """
        self.storage, self.manifest = storage, manifest
        if shared is not None:
            self.shared = shared
        self._samples = Memo[int, PartSamples](MAPS)
        if manifest.layout == "mapped":
            self._rows = Memo[int, dict[str, Array]](MAPS, len(manifest.fields))
        else:
            self._rows = Memo[int, dict[str, Array]](Budget(OPEN_ARCHIVES))

    @cached_property
    def shared(self) -> Any:
        """What all parts share about their samples, such as the images of a cache of views; None if they share nothing.

        Raises:
            CacheDamaged: the file is missing, truncated, foreign or outside the cache.
        """
        return stored_samples(self.manifest).open_shared(self.storage, self.manifest)

    def samples(self, number: int) -> PartSamples:
        """Return the samples of a part, mapped as long as they are used.

        Raises:
            CacheDamaged: the file is missing, truncated, foreign or outside the cache.
        """
        return self._samples.get(number, lambda: open_samples(self.storage, self.manifest, number, self.shared))

    def rows(self, number: int, count: int) -> dict[str, Array]:
        """Return the stored fields of the `count` rows of a part. Raises CacheDamaged: see `map_rows` and `read_rows`."""
        return self._rows.get(number, lambda: self._open_rows(number, count))

    def _open_rows(self, number: int, count: int) -> dict[str, Array]:
        read = map_rows if self.manifest.layout == "mapped" else read_rows
        return read(self.storage.local(layout.part_name(number)) / layout.ROWS_FOLDER, self.manifest.fields, count)


class Part:
    """One committed part: its samples, mapped, and its rows, whose maps stay open as long as they are used."""

    def __init__(self, files: OpenFiles, number: int) -> None:
        """Map the files of a part after comparing their headers and sizes with the manifest and the commit record.

        Args:
            files: those of the cache that are open.
            number: of the part.

        Raises:
            CacheDamaged: a file is missing, truncated, foreign or outside the cache.
            CacheMismatch: the part was written under another plan.
        """
        self.number, self._files = number, files
        storage, manifest = files.storage, files.manifest
        self.folder = storage.local(layout.part_name(number))
        self.record = open_record(storage, manifest, number, [layout.SAMPLES_FILE])
        self.samples = files.samples(number)
        self._check_spans()
        self.codec = RowCodec(row=manifest.row)
        if manifest.layout == "mapped":
            _ = self.fields  # mapping checks the metadata here, not in the middle of an epoch

    def _check_spans(self) -> None:
        """Refuse samples whose rows are others than those of the part, before memory is asked for them."""
        counts_S = self.samples.row_count_S.astype(np.int64)
        ends_S = np.cumsum(counts_S)
        if (
            (counts_S < 0).any()
            or ends_S[-1] != self.record.rows
            or (ends_S - counts_S != self.samples.row_start_S).any()
        ):
            raise CacheDamaged(
                f"{self.folder / layout.SAMPLES_FILE}: the row spans do not follow each other from 0 to the part's rows. "
                "Run `logitstore verify`."
            )

    @property
    def fields(self) -> dict[str, Array]:
        """The stored arrays of the rows: views of mapped files, or decompressed arrays; both stay open while in use."""
        return self._files.rows(self.number, self.record.rows)

    def span(self, index: int) -> slice:
        """Return the slice of the rows of sample number `index` of this part."""
        start = int(self.samples.row_start_S[index])
        return slice(start, start + int(self.samples.row_count_S[index]))

    def places(self, index: int, places: Literal["tokens"] | int) -> slice:
        """Return the slice of the vectors of sample number `index` in a tap with a vector for each place; see `TapInfo`."""
        if places != "tokens":
            return slice(index * places, (index + 1) * places)
        stop = int(self._token_ends_S[index])
        return slice(stop - int(self.samples.lengths_S[index]), stop)

    @cached_property
    def _token_ends_S(self) -> Array:
        """int64[S]: the count of tokens up to the end of each sample."""
        return np.cumsum(self.samples.lengths_S, dtype=np.int64)

    def __getitem__(self, index: int) -> CachedSample:
        return CachedSample(
            sample=self.samples.sample(index), answer=Answer(fields=self.codec.readable(self.stored(index)))
        )

    def stored(self, index: int) -> dict[str, Array]:
        """Return the stored fields of the rows of sample number `index` of this part; they are views.

        Raises:
            CacheDamaged: a value is one that no teacher gives.
        """
        span = self.span(index)
        rows = {name: array[span] for name, array in self.fields.items()}
        check_values(
            rows,
            self.codec,
            lambda: f"{self.folder / layout.ROWS_FOLDER}: among the rows of sample {index}",
            (lambda: self.samples.sample(index).gold_N) if self._files.manifest.knows_gold else None,
        )
        return rows


def open_samples(storage: Storage, manifest: Manifest, number: int, shared: Any) -> PartSamples:
    """Return the samples of a part, mapped. Raises CacheDamaged: see `OpenFiles.samples`."""
    path = storage.local(f"{layout.part_name(number)}/{layout.SAMPLES_FILE}")
    return stored_samples(manifest).open(path, manifest, number, shared)
