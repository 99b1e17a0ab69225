"""`samples.arrow` of a cache of images, and the shared file that names the images.

`samples.arrow` says which image was seen, and proves what the teacher saw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from logitstore.core.types import Array
from logitstore.errors import BadInput, CacheDamaged
from logitstore.format.manifest import Manifest
from logitstore.format.part_record import PartRecord
from logitstore.image.view import View
from logitstore.store.cache import Cache
from logitstore.store.samples import PartSamples, map_batch
from logitstore.store.storage import Storage

IMAGE_SCHEMA = pa.schema(
    [pa.field("key", pa.large_string(), nullable=False), pa.field("label", pa.int32(), nullable=False)]
)


def images_arrow(keys: Sequence[str], labels: Array) -> bytes:
    """Return the contents of the file."""
    columns = [pa.array(keys, pa.large_string()), pa.array(labels.astype(np.int32))]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, IMAGE_SCHEMA) as writer:
        writer.write_batch(pa.record_batch(columns, schema=IMAGE_SCHEMA))
    return bytes(sink.getvalue())


class ImagesFile:
    """A mapped file of images.

    Attributes:
        labels: int64, class number of each image, or -1.
    """

    def __init__(self, path: Path, count: int, classes: int) -> None:
        """Map the file and check it.

        Raises:
            CacheDamaged: it is not an Arrow file, or does not hold `count` images with labels below `classes`.
        """
        batch = map_batch(path, IMAGE_SCHEMA)
        self._keys = batch.column("key")
        self.labels = batch.column("label").to_numpy().astype(np.int64)
        if len(self.labels) != count or not ((self.labels >= -1) & (self.labels < classes)).all():
            raise CacheDamaged(f"{path}: its count of images or a label is wrong. Run `logitstore verify`.")

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, image: int) -> str:
        """Return the key of an image in the data set."""
        return str(self._keys[image].as_py())

    def names(self) -> list[str]:
        """Return the keys of all images."""
        keys: list[str] = self._keys.to_pylist()
        return keys


VIEW_SCHEMA = pa.schema(
    [
        pa.field("image", pa.uint32(), nullable=False),
        pa.field("view", pa.uint32(), nullable=False),
        pa.field("content", pa.uint64(), nullable=False),
        pa.field("digest", pa.uint32(), nullable=False),
        pa.field("nll", pa.float32(), nullable=False),
    ]
)
"""Columns of the file; docs/format.md describes each of them."""


def write_views(path: Path, views: Sequence[View], nll_S: Array) -> None:
    """Write the views of a part; each has one row, in their order.

    Args:
        path: the new file.
        views: the views, in order.
        nll_S: float32, negative logprob of each view's label, nats; NaN without a label.
    """
    columns = {name: [getattr(view, name) for view in views] for name in VIEW_SCHEMA.names if name != "nll"}
    arrays = [pa.array(columns[field.name], field.type) for field in VIEW_SCHEMA if field.name != "nll"]
    batch = pa.record_batch([*arrays, pa.array(nll_S.astype(np.float32))], schema=VIEW_SCHEMA)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, VIEW_SCHEMA) as writer:
        writer.write_batch(batch)


class ViewsFile(PartSamples):
    """A mapped `samples.arrow` of views."""

    def __init__(self, path: Path, span: slice, images: ImagesFile, mixes: bool) -> None:
        """Map the file and check its header.

        Args:
            path: path of the file.
            span: the views that the file must hold, among the views of all images, ordered view after view.
            images: the images of the cache.
            mixes: True if a view may show two images, so that it has no true label.

        Raises:
            CacheDamaged: it is not an Arrow file, has other columns, or holds other views.
        """
        batch = map_batch(path, VIEW_SCHEMA)
        self.batch = batch
        self.image_S, self.view_S, self.content_S, self.digest_S, self.nll_S = (
            batch.column(name).to_numpy() for name in VIEW_SCHEMA.names
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
        """int64: class number of each view, or -1; see `View`."""
        if self._mixes:
            return np.full(len(self), -1, np.int64)
        return np.asarray(self._images.labels[self.document_S])

    def gold(self) -> Array:
        return self.labels_S.astype(np.int64)

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

    def nll_problem(self) -> str | None:
        is_possible_S = (self.nll_S >= 0) | (np.isnan(self.nll_S) & (self.labels_S < 0))
        return None if is_possible_S.all() else "an nll is negative, or NaN where there is a label"

    def keys(self) -> list[str]:
        return [self.sample(index).key for index in range(len(self))]

    def domains(self) -> list[str | None]:
        """Return None for each view: images have no domains."""
        return [None] * len(self)

    def domain_column(self) -> pa.Array:
        return pa.nulls(len(self), pa.string())


class ViewSamples:
    """Views of images on disk; see `logitstore.store.samples.StoredSamples`."""

    shared = "images"

    def open_shared(self, storage: Storage, manifest: Manifest) -> ImagesFile:
        path = storage.local(manifest.shared_file("images"))
        return ImagesFile(path, manifest.samples, manifest.teacher.vocabulary)

    def open(self, path: Path, manifest: Manifest, part: int, shared: ImagesFile) -> ViewsFile:
        return ViewsFile(path, manifest.span(part), shared, manifest.images[1].mixes)

    def write(self, path: Path, manifest: Manifest, samples: Sequence[View], nll_S: Array) -> None:
        write_views(path, samples, nll_S)

    def problems(self, samples: ViewsFile, record: PartRecord, manifest: Manifest) -> Iterator[str]:
        """Say which invariants are broken. Which views they are was compared when the file was opened."""
        if (len(samples), len(samples)) != (record.rows, record.tokens):
            yield "the count of views is not the record's count of rows"
        if problem := samples.nll_problem():
            yield problem

    def difference(self, stored: View, asked: View) -> str | None:
        if stored.content == asked.content:
            return None
        return f"its teacher saw another file of image '{asked.name}'"

    def mismatch(self, here: Manifest, there: Manifest) -> tuple[str, str] | None:
        """Compare what views of other sizes, for other models, have in common."""
        one, other = here.images[1], there.images[1]
        if (one.transforms, one.seed) == (other.transforms, other.seed):
            return None
        return "their views are made in other ways", "Dump both with the same --augment and --seed."

    def advice(self, here: Manifest, there: Manifest) -> tuple[str, str]:
        return (
            "{difference}, so the images or their views differ",
            "Dump both with the same --data, --limit and --views.",
        )


def images_of(cache: Cache) -> ImagesFile:
    """Return the images that a cache of views is about.

    Raises:
        BadInput: the cache holds no images.
    """
    if not isinstance(cache.shared_samples, ImagesFile):
        raise BadInput(f"{cache.path}: this cache holds no images.")
    return cache.shared_samples


def labels_of(cache: Cache, samples_M: Array) -> Array:
    """Return int64[M], the numbers of the classes of some views, or -1; opens no part.

    Raises:
        BadInput: the cache holds no images.
    """
    images, manifest = images_of(cache), cache.manifest
    if manifest.images[1].mixes:
        return np.full(len(samples_M), -1, np.int64)
    parts_M, numbers_M = cache.places(samples_M)
    images_M = parts_M % manifest.parts_of_view * manifest.samples_per_part + numbers_M
    return np.asarray(images.labels[images_M])


def views_of(samples: PartSamples) -> ViewsFile:
    """Return the samples of a part as views of images.

    Raises:
        BadInput: they are something else.
    """
    if not isinstance(samples, ViewsFile):
        raise BadInput("this cache holds no images.")
    return samples
