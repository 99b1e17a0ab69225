"""A view of an image as it is put to the teacher, and all views of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from logitstore.core.types import Array


class Views:
    """All views of all images, made on demand: view 0 of all images, then view 1 of all, and so on.

    Args:
        names: keys of the images.
        labels: int64, the class of each image, or -1.
        views: count of views of each image.
        contents: uint64, checksums of the image files at their first reading; 0 for a file that was not read. None: all 0.
    """

    def __init__(self, names: Sequence[str], labels: Array, views: int, contents: Array | None = None) -> None:
        self._names, self._labels, self._views = names, labels, views
        self._contents = np.zeros(len(names), np.uint64) if contents is None else contents

    def __len__(self) -> int:
        return len(self._names) * self._views

    def rows_in(self, span: slice) -> int:
        """Return how many rows the views of a slice have: one each."""
        return len(range(*span.indices(len(self))))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        view, image = divmod(int(index), len(self._names))
        return View(
            name=self._names[image],
            image=image,
            view=view,
            label=int(self._labels[image]),
            content=int(self._contents[image]),
        )


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of one image: an input for the teacher. Its only row is about its class.

    Attributes:
        name: key of the image in the data set.
        image: index of the image in the data set.
        view: number of the view, from 0.
        label: class number; -1 if the image has no label, or shares the view with another image.
        content: xxh3-64 of the image file; 0 until the file is read.
        digest: checksum of the picture that the teacher saw; 0 until the picture is made.
    """

    name: str
    image: int
    view: int
    label: int = -1
    content: int = 0
    digest: int = 0

    @property
    def key(self) -> str:
        """xxh3-128, in hex, of the name and the number of the view."""
        return xxhash.xxh3_128_hexdigest(f"{self.name}\0{self.view}".encode("utf-8", "surrogatepass"))

    @property
    def length(self) -> int:
        return 1

    @property
    def rows(self) -> int:
        return 1

    @property
    def gold_N(self) -> Array:
        """int64[1]: the class, or -1."""
        return np.array([self.label], np.int64)
