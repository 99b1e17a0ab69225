"""Write `rows.zarr`, one range of rows at a time, in any order.

Mapped layout: zarr-python writes the metadata, and the chunk files are filled in place. Archive layout: zarr-python compresses
and writes all rows of a part when the part is complete.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.buffer import Buffer
from zarr.storage import LocalStore

from logitstore.core.background import to_the_end
from logitstore.core.types import Array
from logitstore.format.row import ARCHIVE_ROWS, FieldInfo
from logitstore.store.rows import archive_codecs, chunk_name


class _StagedStore(LocalStore):  # type: ignore[misc]
    """A folder that one writer fills. zarr-python's own would need hard links, which some file systems do not have."""

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not (self.root / key).exists():
            await self.set(key, value)


class MappedWriter:
    """Writer of the mapped layout: holds the chunk files of one part open, and fills them in any order."""

    def __init__(self, folder: Path, fields: dict[str, FieldInfo], rows: int) -> None:
        self._files: dict[str, tuple[int, np.dtype[Any], int]] = {}
        try:
            to_the_end(self._create, folder, fields, rows)
        except BaseException:
            self.close()
            raise

    def _create(self, folder: Path, fields: dict[str, FieldInfo], rows: int) -> None:
        group = zarr.create_group(_StagedStore(folder), zarr_format=3)
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
        """Write consecutive rows, beginning at `first_row`. Every field must be given, with the same count of rows."""
        for name, (descriptor, dtype, width) in self._files.items():
            content = np.ascontiguousarray(fields[name], dtype).data.cast("B")
            offset = first_row * width * dtype.itemsize
            while content:
                written = os.pwrite(descriptor, content, offset)
                content, offset = content[written:], offset + written

    def finish(self) -> None:
        """Finish after all rows are written."""
        self.close()

    def close(self) -> None:
        """Close the files."""
        for descriptor, _, _ in self._files.values():
            os.close(descriptor)
        self._files = {}


class ArchiveWriter:
    """Writer of the archive layout: holds all rows of one part in memory, and compresses them when they are complete."""

    def __init__(self, folder: Path, fields: dict[str, FieldInfo], rows: int) -> None:
        self._folder, self._fields = folder, fields
        self._arrays = {
            name: np.zeros((rows, *info.shape), np.dtype(info.dtype).newbyteorder("<")) for name, info in fields.items()
        }

    def write(self, first_row: int, fields: dict[str, Array]) -> None:
        """Keep consecutive rows, beginning at `first_row`."""
        for name, array in self._arrays.items():
            array[first_row : first_row + len(fields[name])] = fields[name]

    def finish(self) -> None:
        """Compress and write every field."""
        to_the_end(self._finish)

    def _finish(self) -> None:
        group = zarr.create_group(_StagedStore(self._folder), zarr_format=3)
        for name, array in self._arrays.items():
            *filters, _, blosc = archive_codecs(name, self._fields[name], len(array))
            made = group.create_array(
                name,
                shape=array.shape,
                chunks=(min(max(len(array), 1), ARCHIVE_ROWS), *array.shape[1:]),
                dtype=array.dtype,
                filters=filters or None,
                compressors=[blosc],
                fill_value=0,
                dimension_names=["row", *(f"axis{axis}" for axis in range(1, array.ndim))],
                attributes={"unit": self._fields[name].unit},
                config={"write_empty_chunks": True},
            )
            made[...] = array

    def close(self) -> None:
        """Free the memory."""
        self._arrays = {}


RowsWriter = MappedWriter | ArchiveWriter


def open_writer(folder: Path, fields: dict[str, FieldInfo], rows: int, layout: str) -> RowsWriter:
    """Return a writer of the rows of one part; `layout` is "mapped" or "archive"."""
    return (ArchiveWriter if layout == "archive" else MappedWriter)(folder, fields, rows)
