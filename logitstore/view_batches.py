"""Views as a teacher or a student takes them: images read, their views made on threads, mixed, normalised, and proved.

Axes: B views, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from logitstore.data.images import Images
from logitstore.data.pictures import content_hash, decode
from logitstore.errors import CacheMismatch
from logitstore.score import TeacherBatch
from logitstore.types import View
from logitstore.view_info import ViewInfo
from logitstore.views.digest import digest
from logitstore.views.finish import finish
from logitstore.views.mix import Mix, mixing
from logitstore.views.replay import replay
from logitstore.views.versions import check_versions


class Pictures:
    """Makes the views of a data set's images.

    Args:
        images: the data set.
        info: what is done to them.
        size: height and width of the views, if others than `info.size`.

    Raises:
        CacheMismatch: the libraries are others than those that the views were first made with.
    """

    def __init__(self, images: Images, info: ViewInfo, size: tuple[int, int] | None = None) -> None:
        check_versions(info)
        self.images, self.info = images, info
        self._size = None if size == info.size else size

    def batch(self, views: Iterable[View]) -> tuple[Tensor, list[View]]:
        """float32[B, 3, H, W]: what a model is shown of some views; and the views, with content and digest known.

        Raises:
            BadInput: an image cannot be read or decoded.
            CacheMismatch: a view with a known content or digest has another one now.
        """
        found = [self._made(view) for view in views]
        pictures_B3HW = torch.stack([picture for picture, _, _, _ in found])
        mixes = [mix for _, _, mix, _ in found]
        partners_B3HW = None
        if any(mixes):
            partners_B3HW = torch.stack([picture if other is None else other for picture, other, _, _ in found])
        return finish(pictures_B3HW, self.info, partners_B3HW, mixes), [view for _, _, _, view in found]

    def _made(self, view: View) -> tuple[Tensor, Tensor | None, Mix | None, View]:
        """The view's picture, its partner's, how they are mixed, and the view with what is known now."""
        content = self.images.content(view.image)
        known = replace(view, content=content_hash(content))
        if view.content not in (0, known.content):
            raise CacheMismatch(
                f"image '{view.name}': its file is another one than the teacher saw. Bring the old file back, or dump again."
            )
        picture_3HW = replay(decode(content, view.name), self.info, view.image, view.view, self._size)
        mix = mixing(self.info, view.image, len(self.images), view.view)
        other_3HW = None
        if mix is not None:
            other = self.images.picture(mix.partner)
            other_3HW = replay(other, self.info, mix.partner, view.view, self._size)
        if self._size is None:
            known = replace(known, digest=digest(picture_3HW, mix, other_3HW))
            if view.digest not in (0, known.digest):
                raise CacheMismatch(
                    f"image '{view.name}', view {view.view}: made again, it is not what the teacher saw"
                    + ("" if mix is None else f", alone or in its partner '{self.images.key(mix.partner)}'")
                    + ". Is this the processor and are these the libraries that the cache was made with?"
                )
        return picture_3HW, other_3HW, mix, known


def view_batches(views: list[View], pictures: Pictures, size: int, workers: int) -> Iterator[TeacherBatch]:
    """Batches of `size` views in their order, made ahead by `workers` threads."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="logitstore-views")
    waiting: deque[Future[TeacherBatch]] = deque()
    starts = iter(range(0, len(views), size))
    try:
        for start in starts:
            waiting.append(pool.submit(_batch, pictures, views[start : start + size], start))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _batch(pictures: Pictures, views: list[View], start: int) -> TeacherBatch:
    pixels_B3HW, known = pictures.batch(views)
    return TeacherBatch(
        indices=list(range(start, start + len(views))),
        samples=list(known),
        inputs={"pixel_values": pixels_B3HW},
        rows_N=torch.arange(len(views)),
        gold_N=torch.from_numpy(np.array([view.label for view in known], np.int64)),
    )
