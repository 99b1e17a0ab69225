"""The shared file that names the images of a cache: key and label of each, in order; memory-mapped when read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from logitstore.cache.arrow_file import map_batch
from logitstore.errors import CacheDamaged
from logitstore.types import Array

SCHEMA = pa.schema([pa.field("key", pa.large_string(), nullable=False), pa.field("label", pa.int32(), nullable=False)])


def images_arrow(keys: Sequence[str], labels: Array) -> bytes:
    """The file's contents."""
    columns = [pa.array(keys, pa.large_string()), pa.array(labels.astype(np.int32))]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
    return bytes(sink.getvalue())


class ImagesFile:
    """A mapped file of images.

    Attributes:
        labels: int64, number of the class of each image, or -1.
    """

    def __init__(self, path: Path, count: int, classes: int) -> None:
        """Map the file and check it.

        Raises:
            CacheDamaged: it is no Arrow file, or holds something else than `count` images of `classes` classes.
        """
        batch = map_batch(path, SCHEMA)
        self._keys = batch.column("key")
        self.labels = batch.column("label").to_numpy().astype(np.int64)
        if len(self.labels) != count or not ((self.labels >= -1) & (self.labels < classes)).all():
            raise CacheDamaged(f"{path}: its count of images or a label is wrong. Run `logitstore verify`.")

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, image: int) -> str:
        """Key of an image in the data set."""
        return str(self._keys[image].as_py())

    def names(self) -> list[str]:
        """The keys of all."""
        found: list[str] = self._keys.to_pylist()
        return found
