"""What every file of samples offers, whatever the task, and Arrow files of one record batch, memory-mapped."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

import pyarrow as pa

from logitstore.core.types import Array, Asked
from logitstore.errors import CacheDamaged


def map_batch(path: Path, schema: pa.Schema) -> pa.RecordBatch:
    """The one batch of a file, mapped.

    Raises:
        CacheDamaged: it is no whole Arrow file, has other columns or several batches, or nulls where there must be none.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batch = reader.get_batch(0) if reader.num_record_batches == 1 else None
        if batch is not None:
            # offsets and lengths that lead out of the file would bring the process down when read
            batch.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise CacheDamaged(f"{path}: not a whole Arrow file ({error}). Run `logitstore verify`.") from error
    if batch is None or not batch.schema.equals(schema):
        raise CacheDamaged(f"{path}: its columns or its count of batches are wrong. Run `logitstore verify`.")
    if any(column.null_count for field, column in zip(schema, batch.columns, strict=True) if not field.nullable):
        raise CacheDamaged(f"{path}: it has nulls. Run `logitstore verify`.")
    return batch


class PartSamples(ABC):
    """The samples of one part.

    Attributes:
        lengths_S: int64, positions of each: tokens of a text, 1 of a view.
        row_start_S, row_count_S: the rows of each.
        document_S: int64, what it was made from: the document, or the image.
        nll_S: float32, mean negative logprob of its gold tokens or label, nats; NaN without any.
    """

    lengths_S: Array
    row_start_S: Array
    row_count_S: Array
    document_S: Array
    nll_S: Array

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> Asked:
        """Sample number `index` of the part."""

    @abstractmethod
    def keys(self) -> list[str]:
        """The key of each."""

    @abstractmethod
    def domains(self) -> list[str | None]:
        """Where each sample comes from, if the data say so."""
