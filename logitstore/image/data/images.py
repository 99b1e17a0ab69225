"""The user's images, from a folder, from WebDataset tars or from a data set: keys, classes, files and pictures.

Axes: N images, H height, W width, C red, green and blue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import xxhash

from logitstore.core.progress import Progress, Step, no_progress
from logitstore.core.types import Array
from logitstore.dump.data import files_of, is_saved, load, load_saved
from logitstore.errors import BadInput
from logitstore.image.data.decode import SUFFIXES, decode
from logitstore.image.data.folder import files_below, image_folder
from logitstore.image.data.source import ImageSource
from logitstore.image.data.table import image_table
from logitstore.image.data.tars import image_tars


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """Which images to read.

    Attributes:
        source: a folder of images; a WebDataset tar or a glob of them; or a data set with a column of images: a file, a glob,
            a folder, one that `save_to_disk` wrote, or a hub name (`name` or `name:config`).
        split: the split of the data set, or the subfolder of a folder whose subfolders are splits.
        column: the column of images, or the extension of the tars' images; None takes the only one.
        label_column: the column of classes, or the tars' extension or JSON entry; None takes the usual ones.
        key_column: a column of the data set that names the images; None numbers them.
        limit: at most this many images, the first ones.
    """

    source: str
    split: str = "train"
    column: str | None = None
    label_column: str | None = None
    key_column: str | None = None
    limit: int | None = None


class Images:
    """Images with a key each, and a class where the source tells one; safe to use from several threads.

    Attributes:
        keys: what each image is called: its path below the folder, its key in the tar, its name or number in the data set.
            They stay the same when the data are moved.
        labels: int64[N]; -1 where there is none.
        label_names: what the numbers mean, if it is known: class names of a source that has no numbers are sorted and
            numbered from 0, whatever the limit.
        fingerprint: xxh3-128, in hex, of the keys and labels in their order; says nothing about the files' content.
    """

    def __init__(self, source: ImageSource, limit: int | None = None) -> None:
        """Raises BadInput: a key that is there twice; classes that are neither all numbers nor all names."""
        labels, self.label_names = _numbered(source.labels, source.label_names)
        self.keys = source.keys[:limit]
        self.labels = labels[:limit]
        self._read = source.read
        if len(set(self.keys)) < len(self.keys):
            twice = Counter(self.keys).most_common(1)[0][0]
            raise BadInput(f"--data: two images have the key '{twice}'. Give every image a key of its own.")
        digest = xxhash.xxh3_128()
        for key, label in zip(self.keys, self.labels, strict=True):
            digest.update(f"{label} {key}\0".encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, index: int) -> str:
        return self.keys[index]

    def content(self, index: int) -> bytes:
        """The encoded file, as it lies in the data.

        Raises:
            BadInput: it cannot be read any more.
        """
        return self._read(index)

    def picture(self, index: int) -> Array:
        """uint8 [H, W, C]: the upright picture; see `decode`.

        Raises:
            BadInput: the file cannot be read or decoded.
        """
        return decode(self.content(index), self.key(index))


def open_images(spec: ImageSpec, progress: Progress = no_progress) -> Images:
    """Find the user's images; none is read before it is asked for.

    A folder is in the order of its paths; tars and data sets are in their own.

    Raises:
        BadInput: no such folder, file, split or column; no images; images and other data in one folder; damaged tars; keys or
            classes that cannot be used.
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
            return image_folder(path, images, spec.split)
    files = files_of(spec.source)
    if files and all(".tar" in file.suffixes or file.suffix == ".tgz" for file in files):
        return _tars(files, spec, progress)
    if any(_suffix(file.name) in SUFFIXES for file in files):
        raise BadInput(f"--data {spec.source}: names image files. Give the folder they lie in.")
    table = load_saved(spec.source, spec.split) if is_saved(path) else load(spec.source, spec.split)
    return image_table(table, spec.source, spec.column, spec.label_column, spec.key_column)


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


def _numbered(labels: Sequence[object], names: list[str] | None) -> tuple[Array, list[str] | None]:
    """int64[N] class numbers, -1 for None, and what they mean."""
    known = [label for label in labels if label is not None]
    if known and all(isinstance(label, str) for label in known):
        names = sorted({str(label) for label in known})
        numbers = {name: number for number, name in enumerate(names)}
        return np.array([-1 if label is None else numbers[str(label)] for label in labels], np.int64), names
    wrong = next((label for label in known if not (type(label) is int and -1 <= label < 2**31)), None)
    if wrong is not None:
        raise BadInput(
            f"--label-column: {wrong!r:.80} is no class, where the others are numbers. "
            "Give class numbers from 0 (-1 for none) throughout, or class names throughout."
        )
    return np.array([-1 if label is None else label for label in labels], np.int64), names


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
