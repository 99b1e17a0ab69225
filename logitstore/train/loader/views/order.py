"""Order the views that a student sees: every epoch has all images, or masked texts, once, each in the view, or the views, of
that epoch.

Axes: I images or texts that are read, M places.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from logitstore.core.order import permuted, salt_of
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from logitstore.train.loader.subset import SampleSet
from logitstore.train.loader.windows import PartWindows, windows_between


@dataclass(frozen=True, kw_only=True)
class ViewWindows:
    """The parts of the views of one epoch that are read together; a `logitstore.train.loader.windows.Windows`.

    Attributes:
        images: the windows of images, by the parts of the first view: all views are divided alike.
        views: the views, in the order in which the epochs use them.
        together: number of views of an image that follow each other.
        parts_of_view: number of parts of a view.
    """

    images: PartWindows
    views: tuple[int, ...]
    together: int
    parts_of_view: int

    def starts(self, epoch: int) -> Array:
        """Return int64[K + 1]: the places of an epoch at which the windows begin, and the count of all places."""
        return self.images.starts(epoch) * self.together

    def parts(self, epoch: int, window: int) -> list[int]:
        """Return the numbers of the parts of a window, in the order in which they are first needed."""
        copies = range(epoch * self.together, (epoch + 1) * self.together)
        shown = dict.fromkeys(self.views[copy % len(self.views)] for copy in copies)
        return [view * self.parts_of_view + block for block in self.images.parts(epoch, window) for view in shown]


@dataclass(frozen=True, kw_only=True)
class ViewOrder:
    """A view order says which samples of a cache are read at which places of an epoch.

    Attributes:
        images_I: int64, the images that are read.
        firsts: first sample of each view, in the order in which the epochs use the views, again and again.
        together: number of views of an image that follow each other.
        seed: seed of the order of the images.
        windows: in which windows of parts the images are mixed; None mixes all.
    """

    images_I: Array | SampleSet
    firsts: tuple[int, ...]
    together: int
    seed: int
    windows: ViewWindows | None = None

    @property
    def epoch_samples(self) -> int:
        """Number of samples of an epoch."""
        return len(self.images_I) * self.together

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: numbers of samples in the cache."""
        place_M, copy_M = np.divmod(places_M, self.together)
        if self.windows is None:
            mixed_M = permuted(place_M, len(self.images_I), salt_of(self.seed, epoch, 0))
        else:
            mixed_M = self.windows.images.places(epoch, place_M)
        image_M = self.images_I[mixed_M]
        firsts = np.array(self.firsts, np.int64)
        return np.asarray(firsts[(epoch * self.together + copy_M) % len(firsts)] + image_M)


def view_order(
    cache: Cache,
    images_I: Array | SampleSet,
    wanted: str | None,
    together: int,
    seed: int,
    window_parts: int | None = None,
) -> ViewOrder:
    """Return the order for a cache of images or of masked texts; what is said of images holds for these too.

    Args:
        cache: the cache to read.
        images_I: int64, the images to read; with `window_parts` they must rise.
        wanted: the views to use, such as `0-4,7`, in the order in which the epochs use them; None uses all whole views.
        together: number of views of an image that follow each other.
        seed: seed of the order of the images.
        window_parts: the images are mixed within so many parts that are read together, of all views of an epoch; None mixes
            all.

    Raises:
        BadInput: a view is not there or not whole, there are fewer views than must follow each other, or a window has fewer
            parts than that.
    """
    views = views_in(cache, wanted)
    if together > len(views):
        raise BadInput(f"--views-per-step {together}: there are {len(views)} views to take. Give at most that many.")
    firsts = tuple(cache.first_sample_of(view) for view in views)
    windows: ViewWindows | None = None
    if window_parts is not None:
        if window_parts < together:
            raise BadInput(
                f"--window-parts {window_parts} with --views-per-step {together}: an image's views lie in {together} parts. "
                "Give at least that many."
            )
        windows = ViewWindows(
            images=_image_windows(cache, images_I, window_parts // together, seed),
            views=tuple(views),
            together=together,
            parts_of_view=cache.manifest.parts_of_view,
        )
    return ViewOrder(images_I=images_I, firsts=firsts, together=together, seed=seed, windows=windows)


def _image_windows(cache: Cache, images_I: Array | SampleSet, together: int, seed: int) -> PartWindows:
    """Return the windows of images, by the parts of one view."""
    numbers_P = np.arange(cache.manifest.parts_of_view)
    edges_P = np.concatenate([[0], np.cumsum(cache.manifest.sample_counts(numbers_P))])
    return windows_between(numbers_P, edges_P, images_I, together, seed)


def views_in(cache: Cache, wanted: str | None) -> list[int]:
    """Return the views to use, as for `view_order`. Raises BadInput: a view is not there or not whole."""
    whole = cache.whole_views
    views = list(whole) if wanted is None else parse_views(wanted)
    lacking = [view for view in views if view not in whole]
    if lacking or not views:
        has = f"views {whole[0]} to {whole[-1]}" if whole else "no whole view"
        raise BadInput(f"{cache.path}: view {lacking[0] if lacking else 0} is not there, or not whole; it has {has}.")
    return views


def parse_views(text: str) -> list[int]:
    """Return the numbers of views in a list such as `0-4,7`, in the order given."""
    views: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})(?:\s*-\s*(\d{1,6}))?\s*", piece)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise BadInput(f"--views '{text}': write numbers and ranges, such as 0-4,7.")
        views.extend(range(int(match[1]), int(match[2] or match[1]) + 1))
    return views
