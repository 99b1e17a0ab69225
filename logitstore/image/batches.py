"""Views of images laid into a batch.

Axes: M views, N rows, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.image.pictures import Pictures
from logitstore.store.cache import Cache, views_of
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.gather import _features, _located


def collate_views(
    cache: Cache,
    samples_M: Array,
    answer: dict[str, Tensor],
    gold_M: Tensor,
    pictures: Pictures | None,
    taps: Sequence[Tap] = (),
    weights_S: Array | None = None,
) -> Batch:
    """Copy views, and the features beside them, into one batch; `collate` does this for samples of text.

    Args:
        cache: the cache to read.
        samples_M: int64, numbers of the views.
        answer: the stored fields of the views; see `view_answers`.
        gold_M: int64, labels of the views, or -1.
        pictures: makes the views again from the user's images; without it the batch has no images.
        taps: taps of the cache; their features come too.
        weights_S: float32, weight of each view of the cache in the loss.

    Raises:
        BadInput, CacheMismatch: an image is missing, or not what the teacher saw; see `Pictures.batch`.
    """
    rows = len(samples_M)
    located = _located(cache, samples_M) if pictures or taps else []
    pixels_B3HW = None
    if pictures is not None:
        pixels_B3HW, _ = pictures.batch(views_of(part.samples).sample(number) for part, number in located)
    return Batch(
        pixel_values=pixels_B3HW,
        rows=torch.arange(rows),
        row_mask=torch.ones(rows, dtype=torch.bool),
        answer=answer,
        gold=gold_M,
        samples=torch.from_numpy(np.array(samples_M, np.int64)),
        counts=torch.ones(rows, dtype=torch.int64),
        features=_features(taps, located, [part.span(number) for part, number in located], rows),
        weight=None if weights_S is None else torch.from_numpy(weights_S[samples_M].astype(np.float32)),
    )


def view_answers(cache: Cache, samples_M: Array) -> dict[str, Array]:
    """Return the stored fields of some views, one row each. They are gathered part by part, so gathering more views at once
    takes fewer calls for each view."""
    gathered = {
        name: np.empty((len(samples_M), *info.shape), info.dtype) for name, info in cache.manifest.fields.items()
    }
    order, start = [], 0
    for part, places_M, numbers in cache.by_part(samples_M):
        stored, stop = cache.part(part).fields, start + len(places_M)
        for name, rows_M in gathered.items():
            # with "clip" NumPy writes to where the rows stay; the numbers are in range
            np.take(stored[name], numbers, 0, rows_M[start:stop], "clip")
        order.append(places_M)
        start = stop
    back_M = np.argsort(np.concatenate(order))
    return {name: np.take(rows_M, back_M, 0) for name, rows_M in gathered.items()}
