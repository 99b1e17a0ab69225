"""`samples.arrow` of a cache of images: which image was seen, and the proof of what the teacher saw of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from logitstore.cache.arrow_file import map_batch
from logitstore.cache.images_file import ImagesFile
from logitstore.cache.part_samples import PartSamples
from logitstore.errors import CacheDamaged
from logitstore.types import Array, View

SCHEMA = pa.schema(
    [
        pa.field("image", pa.uint32(), nullable=False),
        pa.field("view", pa.uint32(), nullable=False),
        pa.field("content", pa.uint64(), nullable=False),
        pa.field("digest", pa.uint32(), nullable=False),
        pa.field("nll", pa.float32(), nullable=False),
    ]
)
"""Columns; docs/format.md says what each holds."""


def write_views(path: Path, views: list[View], nll_S: Array) -> None:
    """Write the views of a part; each has one row, in their order.

    Args:
        path: the file to make.
        views: in order.
        nll_S: float32, of each view's label; NaN without one.
    """
    columns = {name: [getattr(view, name) for view in views] for name in SCHEMA.names if name != "nll"}
    arrays = [pa.array(columns[field.name], field.type) for field in SCHEMA if field.name != "nll"]
    batch = pa.record_batch([*arrays, pa.array(nll_S.astype(np.float32))], schema=SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_batch(batch)


class ViewsFile(PartSamples):
    """A mapped `samples.arrow` of views."""

    def __init__(self, path: Path, span: slice, images: ImagesFile, mixes: bool) -> None:
        """Map the file and check its header.

        Args:
            path: of the file.
            span: which views it is to hold, among those of all images, one view of all after another.
            images: of the cache.
            mixes: whether a view may show two images, so that no label is true of it.

        Raises:
            CacheDamaged: it is no Arrow file, has other columns, or holds other views.
        """
        batch = map_batch(path, SCHEMA)
        self.batch = batch
        self.image_S, self.view_S, self.content_S, self.digest_S, self.nll_S = (
            batch.column(name).to_numpy() for name in SCHEMA.names
        )
        wanted_S = np.arange(span.start, span.stop)
        if not np.array_equal(self.view_S.astype(np.int64) * len(images) + self.image_S, wanted_S):
            raise CacheDamaged(f"{path}: it does not hold the views of this part. Run `logitstore verify`.")
        self._images, self._mixes = images, mixes
        self.lengths_S = self.row_count_S = np.ones(len(self.image_S), np.int64)
        self.row_start_S = np.arange(len(self.image_S))
        self.document_S = self.image_S.astype(np.int64)

    def __len__(self) -> int:
        return len(self.image_S)

    @property
    def labels_S(self) -> Array:
        """int64: number of the class, or -1; see `View`."""
        if self._mixes:
            return np.full(len(self), -1, np.int64)
        return np.asarray(self._images.labels[self.document_S])

    def sample(self, index: int) -> View:
        image = int(self.image_S[index])
        return View(
            name=self._images.name(image),
            image=image,
            view=int(self.view_S[index]),
            label=-1 if self._mixes else int(self._images.labels[image]),
            content=int(self.content_S[index]),
            digest=int(self.digest_S[index]),
        )

    def keys(self) -> list[str]:
        return [self.sample(index).key for index in range(len(self))]

    def domains(self) -> list[str | None]:
        """None of each: images have labels."""
        return [None] * len(self)
