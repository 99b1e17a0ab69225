"""Read images from WebDataset tars: a member `key.jpg` next to `key.cls` or `key.json`. Nothing is extracted.

The builder `webdataset` of `datasets` is not used: it copies the tars into its cache, and refuses JPEG and PNG in one tar.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from logitstore.core.progress import Progress, Step
from logitstore.core.registry import suggest
from logitstore.errors import BadInput, one_line
from logitstore.image.data.decode import SUFFIXES
from logitstore.image.data.source import ImageSource, read_file, refuse_unless_utf8

_NUMBER = re.compile(r"-?\d+")


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """The members of a tar that share a key: extension in lower case -> (first byte, count of bytes)."""

    tar: Path
    key: str
    members: dict[str, tuple[int, int]]

    def read(self, extension: str) -> bytes:
        return read_file(self.tar, self.key, *self.members[extension])


def image_tars(tars: list[Path], column: str | None, label_column: str | None, progress: Progress) -> ImageSource:
    """Return the images of some tars, in their order; samples without an image are skipped.

    The key of a member is its path up to the first dot of its name.

    Args:
        tars: paths of the tars.
        column: the extension of the members to read; None takes the only image extension of each sample.
        label_column: the extension of the members that hold the class, or an entry of `key.json`; None takes `cls`, else the
            entry `label`.
        progress: receives the steps.

    Raises:
        BadInput: a file is not a plain tar; a member exists twice; a key has several images; `label_column` is given and no
            sample has a class.
    """
    keys: list[str] = []
    labels: list[object] = []
    places: list[tuple[int, int, int]] = []
    for number, tar in enumerate(tars):
        for sample in _samples(tar):
            image = _image(sample, column)
            if image is not None:
                keys.append(sample.key)
                labels.append(_label(sample, label_column))
                places.append((number, *sample.members[image]))
        progress(Step(stage="images", done=number + 1, total=len(tars)))
    if label_column is not None and keys and all(label is None for label in labels):
        raise BadInput(
            f"--label-column: no member ends in '.{label_column}', and no member's JSON has an entry '{label_column}'."
        )
    places_N3 = np.array(places, np.int64).reshape(-1, 3)

    def read(index: int) -> bytes:
        number, start, size = (int(value) for value in places_N3[index])
        return read_file(tars[number], keys[index], start, size)

    return ImageSource(keys=keys, labels=labels, read=read)


def _samples(path: Path) -> Iterator[_Sample]:
    """Yield the samples of a tar in the order of their first members; the members need not be neighbours."""
    samples: dict[str, _Sample] = {}
    try:
        for member in _members(path):
            folder, slash, name = member.name.removeprefix("./").rpartition("/")
            stem, _, extension = name.partition(".")
            extension = extension.lower()
            if not (member.isreg() and stem and extension):
                continue
            key = f"{folder}{slash}{stem}"
            refuse_unless_utf8(key, path)
            sample = samples.setdefault(key, _Sample(tar=path, key=key, members={}))
            if extension in sample.members:
                raise BadInput(
                    f"--data {path}: the member '{member.name}' is there twice. Name each image differently."
                )
            sample.members[extension] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise BadInput(
            f"--data {path}: cannot be read as a plain tar: {one_line(error)}. Give whole, unzipped tars."
        ) from error
    yield from samples.values()


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
        yield from tar
        # `tarfile` takes a damaged or truncated header for the end of the file
        file.seek(tar.offset)
        if any(file.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError("it is damaged or cut short")


def _image(sample: _Sample, column: str | None) -> str | None:
    """Return the extension of the sample's image; None if it has no image."""
    images = [extension for extension in sample.members if f".{extension.rpartition('.')[2]}" in SUFFIXES]
    if column is not None and images and column not in sample.members:
        raise BadInput(f"--column: '{sample.key}' has no member '.{column}'. {suggest(column, list(sample.members))}")
    if column is None and len(images) > 1:
        raise BadInput(
            f"--data {sample.tar}: '{sample.key}' has several images: .{', .'.join(images)}. Name one with --column."
        )
    return (column or images[0]) if images else None


def _label(sample: _Sample, label_column: str | None) -> object:
    """Return the class of the sample, a number or a name; None if it has no class."""
    if (label_column or "cls") in sample.members:
        text = sample.read(label_column or "cls").decode("utf-8", "replace").strip()
        return int(text) if _NUMBER.fullmatch(text) else text or None
    if "json" not in sample.members:
        return None
    try:
        entries = json.loads(sample.read("json"))
    except ValueError as error:
        raise BadInput(f"--data {sample.tar}: '{sample.key}.json' is not JSON: {one_line(error)}.") from error
    label = entries.get(label_column or "label") if isinstance(entries, dict) else None
    # without --label-column, the entry may be something else, such as the score of a caption
    return label if label_column is not None or isinstance(label, int | str) else None
