"""Open the user's images in a folder, WebDataset tars or a data set: keys, classes, files and pictures.

Axes: N images, H height, W width, C red, green and blue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import xxhash

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.registry import resolve
from logitstore.core.types import Array
from logitstore.dump.data import files_of, is_saved, load, load_saved
from logitstore.dump.files.class_names import numbered
from logitstore.errors import BadInput
from logitstore.image.data.decode import SUFFIXES, decode
from logitstore.image.data.folder import files_below, image_folder, linked_folders
from logitstore.image.data.source import ImageSource
from logitstore.image.data.tars import image_tars


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """The specification of the images to read.

    Attributes:
        source: a folder of images; a WebDataset tar or a glob of tars; or a data set with a column of images: a file, a glob,
            a folder, a folder that `save_to_disk` wrote, or a hub name (`name` or `name:config`).
        split: the split of the data set, or the subfolder of a folder whose subfolders are splits.
        column: the column of images, or the extension of the tars' images; None takes the only one.
        label_column: the column of classes, or the extension or JSON entry in tars; None takes the usual names.
        key_column: a column of the data set that names the images; None numbers them.
        limit: the largest count of images; the first ones are taken.
    """

    source: str
    split: str = "train"
    column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    limit: int | None = None


class Images:
    """Images with keys and, if the source has them, classes. Safe to use from several threads.

    Attributes:
        keys: the key of each image: its path in the folder, its key in the tar, or its name or number in the data set. Keys
            do not change if the data are moved.
        labels: int64[N], class numbers; -1 without a class.
        label_names: names of the class numbers, if known. If a source has names only, all its names are sorted and numbered
            from 0; the limit has no influence.
        fingerprint: xxh3-128, in hex, of the keys and labels in their order; it does not cover the contents of the files.
    """

    def __init__(self, source: ImageSource, limit: int | None = None) -> None:
        """Check and number the images. Raises BadInput: a key exists twice, or the classes mix numbers and names."""
        labels, self.label_names = numbered(source.labels, source.label_names)
        self.keys = source.keys[:limit]
        self.labels = labels[:limit]
        self._read = source.read
        if len(set(self.keys)) < len(self.keys):
            twice = Counter(self.keys).most_common(1)[0][0]
            raise BadInput(f"--data: two images have the key '{twice}'. Give every image a key of its own.")

    @cached_property
    def fingerprint(self) -> str:
        digest = xxhash.xxh3_128()
        for key, label in zip(self.keys, self.labels, strict=True):
            digest.update(f"{label} {key}\0".encode())
        return digest.hexdigest()

    def without(self, places: Collection[int]) -> Images:
        """Return the same images but some, which keep their classes and get other places."""
        kept = [place for place in range(len(self)) if place not in places]
        other = copy(self)
        other.__dict__.pop("fingerprint", None)
        other.keys, other.labels = [self.keys[place] for place in kept], self.labels[kept]
        read = self._read
        other._read = lambda index: read(kept[index])
        return other

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def content(self, index: int) -> bytes:
        """Return the encoded file of an image, unchanged.

        Raises:
            BadInput: the file cannot be read.
        """
        return self._read(index)

    def picture(self, index: int) -> Array:
        """Return the upright picture, uint8 [H, W, C]; see `decode`.

        Raises:
            BadInput: the file cannot be read or decoded.
        """
        return decode(self.content(index), self.key(index))


def open_images(spec: ImageSpec, progress: Progress = no_progress) -> Images:
    """Find the user's images. An image is read only when it is used.

    Images of a folder have the order of their paths; images of tars and data sets keep their order there.

    Raises:
        BadInput: a folder, file, split or column does not exist; there are no images; a folder holds images and other data;
            a tar is damaged; keys or classes cannot be used.
    """
    images = Images(_source(spec, progress), spec.limit)
    if not len(images):
        raise _no_images(spec)
    progress(Step(stage="images", done=len(images), total=len(images)))
    return images


def _source(spec: ImageSpec, progress: Progress) -> ImageSource:
    path = Path(spec.source).expanduser()
    if path.is_dir() and not is_saved(path):
        names = files_below(path)
        images = [name for name in names if _suffix(name) in SUFFIXES]
        others = sorted({_suffix(name) for name in names} & {".parquet", ".arrow", ".tar"})
        if ".tar" in others or (images and others):
            raise BadInput(
                f"--data {spec.source}: holds {' and '.join(['images'] * bool(images) + others)} files. "
                f"Name the ones you mean by a glob, such as '{path}/*{others[-1]}'."
            )
        if not others:
            _refuse_columns(spec)
            if not images:
                raise _no_images(spec)
            passed_over = [name for name in names if _suffix(name) not in SUFFIXES]
            if passed_over:
                line = (
                    f"{len(passed_over):,} files are no images by their names and are passed over: '{passed_over[0]}'"
                )
                progress(Step(stage=line + (", ..." if passed_over[1:] else ""), done=1, total=1))
            for line in linked_folders(path, images):
                progress(Step(stage=line, done=1, total=1))
            return image_folder(path, images, spec.split)
    files = files_of(spec.source)
    if files and all(".tar" in file.suffixes or file.suffix == ".tgz" for file in files):
        return _tars(files, spec, progress)
    if any(_suffix(file.name) in SUFFIXES for file in files):
        raise BadInput(f"--data {spec.source}: names image files. Give the folder they lie in.")
    table = load_saved(spec.source, spec.split) if is_saved(path) else load(spec.source, spec.split)
    image_table = resolve("logitstore.image.data.table:image_table")  # which imports `datasets`
    found: ImageSource = image_table(table, spec.source, spec.column, spec.label_column, spec.key_column)
    return found


def _tars(files: list[Path], spec: ImageSpec, progress: Progress) -> ImageSource:
    if spec.split != "train":
        raise BadInput(f"--data {spec.source}: tars have no split named '{spec.split}'. Choose the tars by a glob.")
    if spec.key_column is not None:
        raise BadInput("--key-column: the members of a tar are named by their keys. Leave it out.")
    return image_tars(files, spec.column, spec.label_column, progress)


def _no_images(spec: ImageSpec) -> BadInput:
    return BadInput(f"--data {spec.source}: no images in it. Give a folder, tars or a data set that has some.")


def _refuse_columns(spec: ImageSpec) -> None:
    for option in ("column", "label_column", "key_column"):
        if getattr(spec, option) is not None:
            raise BadInput(f"--{option.replace('_', '-')}: a folder of images has no columns. Leave it out.")


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
