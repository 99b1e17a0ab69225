"""Writing `rows.zarr`: zarr-python makes the metadata, the chunk files are filled row range by row range, in any order."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from logitstore.cache.rows_file import chunk_name
from logitstore.manifest import FieldInfo
from logitstore.types import Array


class RowsWriter:
    """Open chunk files of one part, filled in any order."""

    def __init__(self, folder: Path, fields: dict[str, FieldInfo], rows: int) -> None:
        self._files: dict[str, tuple[int, np.dtype[Any], int]] = {}
        try:
            self._create(folder, fields, rows)
        except BaseException:
            self.close()
            raise

    def _create(self, folder: Path, fields: dict[str, FieldInfo], rows: int) -> None:
        group = zarr.create_group(str(folder), zarr_format=3)
        for name, info in fields.items():
            shape = (rows, *info.shape)
            group.create_array(
                name,
                shape=shape,
                chunks=tuple(max(axis, 1) for axis in shape),
                dtype=np.dtype(info.dtype).newbyteorder("<"),
                compressors=None,
                filters=None,
                fill_value=0,
                dimension_names=["row", *(f"axis{axis}" for axis in range(1, len(shape)))],
                attributes={"unit": info.unit},
            )
            chunk = folder / name / chunk_name(len(shape))
            chunk.parent.mkdir(parents=True)
            descriptor = os.open(chunk, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            self._files[name] = (descriptor, np.dtype(info.dtype).newbyteorder("<"), math.prod(info.shape))

    def write(self, first_row: int, fields: dict[str, Array]) -> None:
        """Store consecutive rows from `first_row` on; every field must be given, with the same count of rows."""
        for name, (descriptor, dtype, width) in self._files.items():
            content = np.ascontiguousarray(fields[name], dtype).data.cast("B")
            offset = first_row * width * dtype.itemsize
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written

    def close(self) -> None:
        for descriptor, _, _ in self._files.values():
            os.close(descriptor)
        self._files = {}
