"""Order the views that a student sees: every epoch has all images once, each in the view, or the views, of that epoch.

Axes: I images that are read, M places.
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


@dataclass(frozen=True, kw_only=True)
class ViewOrder:
    """A view order says which samples of a cache are read at which places of an epoch.

    Attributes:
        images_I: int64, the images that are read.
        firsts: first sample of each view, in the order in which the epochs use the views, again and again.
        together: number of views of an image that follow each other.
        seed: seed of the order of the images.
    """

    images_I: Array | SampleSet
    firsts: tuple[int, ...]
    together: int
    seed: int

    @property
    def epoch_samples(self) -> int:
        """Number of samples of an epoch."""
        return len(self.images_I) * self.together

    def __call__(self, epoch: int, places_M: Array) -> Array:
        """Return int64[M]: numbers of samples in the cache."""
        place_M, copy_M = np.divmod(places_M, self.together)
        image_M = self.images_I[permuted(place_M, len(self.images_I), salt_of(self.seed, epoch, 0))]
        firsts = np.array(self.firsts, np.int64)
        return np.asarray(firsts[(epoch * self.together + copy_M) % len(firsts)] + image_M)


def view_order(cache: Cache, images_I: Array | SampleSet, wanted: str | None, together: int, seed: int) -> ViewOrder:
    """Return the order for a cache of images.

    Args:
        cache: the cache to read.
        images_I: int64, the images to read.
        wanted: the views to use, such as `0-4,7`, in the order in which the epochs use them; None uses all whole views.
        together: number of views of an image that follow each other.
        seed: seed of the order of the images.

    Raises:
        BadInput: a view is not there or not whole, or there are fewer views than must follow each other.
    """
    views = views_in(cache, wanted)
    if together > len(views):
        raise BadInput(f"--views-per-step {together}: there are {len(views)} views to take. Give at most that many.")
    firsts = tuple(cache.first_sample_of(view) for view in views)
    return ViewOrder(images_I=images_I, firsts=firsts, together=together, seed=seed)


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
