"""Arrow IPC files of one record batch, memory-mapped and looked through before anything of them is used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.ipc

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
