"""The samples of a part on disk: what every task offers, and Arrow files of one record batch, memory-mapped."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from logitstore.core.tasks import facet
from logitstore.core.types import Array, Asked
from logitstore.errors import CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.store.maps import tell_of_map
from logitstore.store.storage import Storage


def map_batch(path: Path, schema: pa.Schema) -> pa.RecordBatch:
    """Map a file and return its only batch.

    Raises:
        CacheDamaged: it is not a whole Arrow file, has other columns, several batches, or nulls in a column without nulls.
    """
    try:
        reader = open_arrow(pa.memory_map(str(path)))
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is not None:
            # reading with offsets or lengths beyond the end of the file would crash the process
            batch.validate(full=True)
    except (pa.ArrowException, OSError, struct.error) as error:
        raise CacheDamaged(f"{path}: not a whole Arrow file ({error}). Run `logitstore verify`.") from error
    if batch is None or not batch.schema.equals(schema):
        raise CacheDamaged(f"{path}: its columns or its count of batches are wrong. Run `logitstore verify`.")
    if any(column.null_count for field, column in zip(schema, batch.columns, strict=True) if not field.nullable):
        raise CacheDamaged(f"{path}: it has nulls. Run `logitstore verify`.")
    tell_of_map(path, batch)
    return batch


def open_arrow(file: pa.NativeFile) -> pa.RecordBatchFileReader:
    """Open an Arrow file, after making sure that its buffers are not compressed: a few bytes could become any number.

    Raises:
        pa.ArrowException, struct.error: it is not an Arrow file, has dictionaries, or a batch whose buffers are compressed.
    """
    size = file.size()
    if size < 18 or file.read_at(6, 0) != _MAGIC or file.read_at(6, size - 6) != _MAGIC:
        raise pa.ArrowInvalid("it does not begin and end as an Arrow file")
    (length,) = struct.unpack("<i", file.read_at(4, size - 10))
    if not 0 < length <= size - 18:
        raise pa.ArrowInvalid("its footer is larger than the file")
    footer = _Table.root(file.read_at(length, size - 10 - length))
    if footer.vector(2)[0]:
        raise pa.ArrowInvalid("it has dictionaries")
    count, first = footer.vector(3)
    for block in range(count):
        offset, metadata = struct.unpack_from("<qi", footer.buffer, first + 24 * block)
        if not (offset >= 0 and 8 < metadata <= size and offset + metadata <= size):
            raise pa.ArrowInvalid("a batch lies beyond the end of the file")
        message = file.read_at(metadata, offset)
        skipped = 8 if message[:4] == b"\xff" * 4 else 4
        if _Table.root(message[skipped:]).table(2).place(3) is not None:
            raise pa.ArrowInvalid("its buffers are compressed")
    file.seek(0)
    return pa.ipc.open_file(file)


_MAGIC = b"ARROW1"


@dataclass(frozen=True)
class _Table:
    """A table of a flatbuffer, as Arrow writes its footer and its messages; fields are known by number."""

    buffer: bytes
    start: int

    @classmethod
    def root(cls, buffer: bytes) -> _Table:
        return cls(buffer, struct.unpack_from("<I", buffer)[0])

    def place(self, number: int) -> int | None:
        """Return where the value of a field stands; None for a field that is left out."""
        fields = self.start - struct.unpack_from("<i", self.buffer, self.start)[0]
        if fields < 0:
            raise struct.error("a table of the file has no description")
        if 4 + 2 * number >= struct.unpack_from("<H", self.buffer, fields)[0]:
            return None
        offset = struct.unpack_from("<H", self.buffer, fields + 4 + 2 * number)[0]
        return self.start + offset if offset else None

    def _target(self, number: int) -> int | None:
        place = self.place(number)
        return None if place is None else place + int(struct.unpack_from("<I", self.buffer, place)[0])

    def vector(self, number: int) -> tuple[int, int]:
        """Return the count of a vector's entries, and where the first stands; 0 entries for one that is left out."""
        target = self._target(number)
        return (0, 0) if target is None else (struct.unpack_from("<I", self.buffer, target)[0], target + 4)

    def table(self, number: int) -> _Table:
        target = self._target(number)
        if target is None:
            raise struct.error("a message of the file is empty")
        return _Table(self.buffer, target)


class PartSamples(ABC):
    """The samples of one part.

    Attributes:
        lengths_S: int64, count of positions of each sample: the tokens of a text; 1 for a view.
        row_start_S, row_count_S: first row and count of rows of each sample.
        document_S: int64, index of the source of each sample: its document or its image.
        nll_S: float32, mean negative logprob of the gold tokens or the label, nats; NaN without any.
        rows_need_teacher: True if the teacher's answers chose the positions of the rows; they do not follow from the data then.
    """

    rows_need_teacher: bool = False
    lengths_S: Array
    row_start_S: Array
    row_count_S: Array
    document_S: Array
    nll_S: Array

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Asked:
        """Return sample number `index` of the part."""

    def gold(self) -> Array:
        """Return the gold token of every row of the part, or the class that it is about; int64, -1 where there is none."""
        return np.concatenate([self.sample(index).gold_N for index in range(len(self))]).astype(np.int64)

    def nll_problem(self) -> str | None:
        """Say what is wrong with the nlls, if something is. Where a sample may be without a gold token, a task says more."""
        return None if (self.nll_S >= 0).all() else "an nll is negative or NaN"

    @abstractmethod
    def keys(self) -> list[str]:
        """Return the keys of all samples."""

    @abstractmethod
    def domains(self) -> list[str | None]:
        """Where each sample comes from, if the data say so."""

    def told(self) -> dict[str, pa.Array]:
        """Return what the data say of the samples, by the names of `logitstore.format.data`: float64 for each score, texts for
        groups; null where they say nothing."""
        return {}

    def domain_column(self) -> pa.Array:
        """Return `domains` as a column of texts."""
        return pa.array(self.domains(), pa.string())


class StoredSamples(Protocol):
    """The samples of one task on disk; the first facet of a task, see `logitstore.core.tasks`."""

    shared: str | None
    """The shared file that tells what all parts are about, such as "images"; None if the parts say all."""

    def open_shared(self, storage: Storage, manifest: Manifest) -> Any:
        """Open the shared file, or return None if there is none.

        Raises:
            CacheDamaged: it is missing, truncated, foreign or outside the cache.
        """
        ...

    def open(self, path: Path, manifest: Manifest, part: int, shared: Any) -> PartSamples:
        """Map the samples of one part.

        Args:
            path: the file.
            manifest: that of the cache.
            part: number of the part.
            shared: what `open_shared` gave.

        Raises:
            CacheDamaged: the file is truncated or foreign, or holds other samples than the part's.
        """
        ...

    def write(self, path: Path, manifest: Manifest, samples: Sequence[Any], nll_S: Array) -> None:
        """Write the samples of a part, in their order.

        Args:
            path: the file to make.
            manifest: that of the cache.
            samples: the samples, as the teacher saw them.
            nll_S: float32, the mean negative logprob of each sample's gold tokens, nats per row.
        """
        ...

    def problems(self, samples: Any, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        """Say which invariants the samples of a part break, one sentence for each."""
        ...

    def difference(self, stored: Any, asked: Any) -> str | None:
        """Say how two samples with the same key differ; None if they are the same."""
        ...

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Say why two caches with the same samples do not fit together, and the way out; None if they fit."""
        ...

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        """Say what is likely to differ between two caches whose samples differ, and the way out."""
        ...


def stored_samples(manifest: Manifest) -> StoredSamples:
    """Return the samples on disk of a cache's task.

    Raises:
        BadInput: the task belongs to a package that is not installed.
    """
    samples: StoredSamples = facet(manifest.task, "stored")
    return samples
