"""Make views for a teacher or a student: read images, make their views, mix, normalise and check them.

Axes: B views, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from logitstore.core.background import Pending, Workers
from logitstore.core.progress import Progress, no_progress
from logitstore.core.types import Array
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.errors import BadInput, CacheMismatch
from logitstore.format.views import ViewInfo
from logitstore.image.data.decode import content_hash, decode
from logitstore.image.data.images import Images, ImageSpec, open_images
from logitstore.image.stored import images_of
from logitstore.image.view import View
from logitstore.image.views.finish import finish
from logitstore.image.views.mix import Mix, mixing
from logitstore.image.views.proof import check_versions, digest
from logitstore.image.views.replay import replay
from logitstore.store.cache import Cache


class Pictures:
    """Make the views of a data set's images.

    Args:
        images: the data set.
        info: how the views are made.
        size: height and width of the views, where they differ from `info.size`.
        places: int64, the place of each image among `images`; None leaves each image in its own place.
        shown: gives mean, std and channels, where they are not those of `info`.

    Raises:
        CacheMismatch: the installed libraries are not those that the views were first made with.
    """

    def __init__(
        self,
        images: Images,
        info: ViewInfo,
        size: tuple[int, int] | None = None,
        places: Array | None = None,
        shown: ViewInfo | None = None,
    ) -> None:
        check_versions(info)
        self.images, self.info, self._shown = images, info, shown or info
        self._places = np.arange(len(images)) if places is None else places
        self._size = None if size == info.size else size

    def batch(self, views: Iterable[View]) -> tuple[Tensor, list[View]]:
        """Return float32[B, 3, H, W], the images that a model is shown for some views; and the views, with content and
        digest filled in.

        Raises:
            BadInput: an image cannot be read or decoded.
            CacheMismatch: the content or the digest of a view is not the one recorded in the view.
        """
        made = [self._made(view) for view in views]
        pictures_B3HW = torch.stack([picture for picture, _, _, _ in made])
        mixes = [mix for _, _, mix, _ in made]
        partners_B3HW = None
        if any(mixes):
            partners_B3HW = torch.stack([picture if other is None else other for picture, other, _, _ in made])
        return finish(pictures_B3HW, self._shown, partners_B3HW, mixes), [view for _, _, _, view in made]

    def _made(self, view: View) -> tuple[Tensor, Tensor | None, Mix | None, View]:
        """Return the view's picture, its partner's picture, how they are mixed, and the view with content and digest filled
        in."""
        content = self.images.content(int(self._places[view.image]))
        filled = replace(view, content=content_hash(content))
        if view.content not in (0, filled.content):
            raise CacheMismatch(
                f"image '{view.name}': its file is another one than the teacher saw. Bring the old file back, or dump again."
            )
        picture_3HW = replay(decode(content, view.name), self.info, view.image, view.view, self._size)
        mix = mixing(self.info, view.image, len(self._places), view.view)
        other_3HW = None
        if mix is not None:
            other = self.images.picture(int(self._places[mix.partner]))
            other_3HW = replay(other, self.info, mix.partner, view.view, self._size)
        if self._size is None:
            filled = replace(filled, digest=digest(picture_3HW, mix, other_3HW))
            if view.digest not in (0, filled.digest):
                raise CacheMismatch(
                    f"image '{view.name}', view {view.view}: made again, it is not what the teacher saw"
                    + (
                        ""
                        if mix is None
                        else f", alone or in its partner '{self.images.key(int(self._places[mix.partner]))}'"
                    )
                    + ". Is this the processor and are these the libraries that the cache was made with?"
                )
        return picture_3HW, other_3HW, mix, filled


def pictures_of(
    cache: Cache,
    source: str | Path | None = None,
    size: int | None = None,
    progress: Progress = no_progress,
    shown: ViewInfo | None = None,
) -> Pictures:
    """Return a maker of the views of a cache's images, which are found in the user's data by their keys.

    Args:
        cache: a cache of images.
        source: the data, where they have moved since the cache was made.
        size: edge of the views, where it is not the teacher's.
        progress: receives the steps.
        shown: see `Pictures`.

    Raises:
        BadInput: the cache holds text; or the data cannot be read, or lack an image.
        CacheMismatch: see `Pictures`.
    """
    data, info = cache.manifest.images
    spec = ImageSpec(
        source=data.source if source is None else str(source),
        split=data.split,
        column=data.column,
        label_column=data.label_column,
        key_column=data.key_column,
    )
    try:
        images = open_images(spec, progress)
    except BadInput as error:
        # what is called --data in a dump is called --images here
        message = (
            str(error) if not str(error).startswith("--data ") else f"--images {str(error).removeprefix('--data ')}"
        )
        if source is None:
            message += f" The images of {cache.path} were there; say with --images where they are now."
        raise BadInput(message) from error
    place_of = {key: place for place, key in enumerate(images.keys)}
    names = images_of(cache).names()
    missing = [name for name in names if name not in place_of]
    if missing:
        raise BadInput(
            f"--images {spec.source}: image '{missing[0]}' of {cache.path} is not there"
            + (f", nor are {len(missing) - 1:,} others" if missing[1:] else "")
            + ". Give the data that the cache was made from."
        )
    places = np.array([place_of[name] for name in names], np.int64)
    return Pictures(images, info, None if size is None else (size, size), places, shown)


def view_batches(views: list[View], pictures: Pictures, size: int, workers: int) -> Iterator[TeacherBatch]:
    """Yield batches of `size` views in their order, made ahead by `workers` threads."""
    pool = Workers(workers)
    waiting: deque[Pending[TeacherBatch]] = deque()
    starts = iter(range(0, len(views), size))
    try:
        for start in starts:
            waiting.append(pool.submit(_batch, pictures, views[start : start + size], start))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.close(drop=True)


def _batch(pictures: Pictures, views: list[View], start: int) -> TeacherBatch:
    pixels_B3HW, filled = pictures.batch(views)
    return TeacherBatch(
        indices=list(range(start, start + len(views))),
        samples=list(filled),
        inputs={"pixel_values": pixels_B3HW},
        rows_N=torch.arange(len(views)),
        gold_N=torch.from_numpy(np.array([view.label for view in filled], np.int64)),
    )
