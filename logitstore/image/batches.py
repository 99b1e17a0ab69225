"""Views of images laid into a batch.

Axes: M views, N rows, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from logitstore.core.memo import Budget, Memo
from logitstore.core.order import BUCKET_BATCHES
from logitstore.core.types import Array
from logitstore.errors import BadInput
from logitstore.image.pictures import Pictures, pictures_of
from logitstore.image.stored import labels_of, views_of
from logitstore.store.cache import Cache
from logitstore.store.checks.rows import check_values
from logitstore.store.taps import Tap
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_features, located_samples, parts_text


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
    located = located_samples(cache, samples_M) if pictures or taps else []
    inputs = {}
    if pictures is not None:
        pixels_B3HW, _ = pictures.batch(views_of(part.samples).sample(number) for part, number in located)
        inputs = {"pixel_values": pixels_B3HW}
    return Batch(
        inputs=inputs,
        rows=torch.arange(rows),
        row_mask=torch.ones(rows, dtype=torch.bool),
        answer=answer,
        gold=gold_M,
        samples=torch.from_numpy(np.array(samples_M, np.int64)),
        counts=torch.ones(rows, dtype=torch.int64),
        features=gathered_features(taps, located, [part.span(number) for part, number in located], rows),
        weight=None if weights_S is None else torch.from_numpy(weights_S[samples_M].astype(np.float32)),
    )


def view_answers(cache: Cache, samples_M: Array) -> dict[str, Array]:
    """Return the stored fields of some views, one row each. They are gathered part by part, so gathering more views at once
    takes fewer calls for each view."""
    gathered = {
        name: np.empty((len(samples_M), *info.shape), info.dtype) for name, info in cache.manifest.fields.items()
    }
    order, asked, start = [], list[tuple[int, Array]](), 0
    for part, places_M, numbers in cache.by_part(samples_M):
        stored, stop = cache.part(part).fields, start + len(places_M)
        for name, rows_M in gathered.items():
            # with "clip" NumPy writes to where the rows stay; the numbers are in range
            np.take(stored[name], numbers, 0, rows_M[start:stop], "clip")
        order.append(places_M)
        asked.append((part, numbers))
        start = stop
        codec = cache.part(part).codec
    check_values(
        gathered,
        codec,
        lambda: parts_text(str(cache.path), [part for part, _ in asked]),
        lambda: np.concatenate([views_of(cache.samples_of(part)).labels_S[numbers] for part, numbers in asked]),
    )
    back_M = np.argsort(np.concatenate(order))
    return {name: np.take(rows_M, back_M, 0) for name, rows_M in gathered.items()}


BYTES_TOGETHER = 1 << 22
"""Of the answers about views that are gathered at once, in whole batches: in random order each is in another part."""

Gathered = tuple[Array, dict[str, Tensor], Tensor]
"""int64[M] numbers of the views of a batch, what is stored about them, and int64[M] their labels."""


class ViewCollator:
    """Lays views into batches, answers of several batches at once; see `logitstore.train.loader.collate.Collator`.

    Args:
        cache: to read.
        packed: must be False.
        taps: of the cache, whose features come too.
        weights: float32, what each of the cache's views counts; None where all count alike.
        bytes_per_batch: of the stored rows.
        pictures: makes the views again; without it from where the images were.
        with_images: False leaves the images out, for those who make the views themselves.

    Raises:
        BadInput: views are to be packed.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        packed: bool,
        taps: Sequence[Tap],
        weights: Array | None,
        bytes_per_batch: int,
        pictures: Pictures | None = None,
        with_images: bool = True,
    ) -> None:
        if packed:
            raise BadInput(f"{cache.path}: views of images cannot be packed. Leave that out.")
        self._cache, self._taps, self._weights = cache, taps, weights
        self._pictures = (pictures or pictures_of(cache)) if with_images else None
        self._together = min(max(BYTES_TOGETHER // bytes_per_batch, 1), BUCKET_BATCHES)
        self._groups = Memo[tuple[int, int], dict[int, Gathered]](Budget(2))

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        first = number - number // chosen.world_size % self._together * chosen.world_size
        group = self._groups.get((epoch, first), lambda: self._gather(chosen, epoch, first))
        samples_M, answer, gold_M = group[number]
        return collate_views(self._cache, samples_M, answer, gold_M, self._pictures, self._taps, self._weights)

    def _gather(self, chosen: Chosen, epoch: int, first: int) -> dict[int, Gathered]:
        """Return views, answers and labels of a batch and of the next ones of its rank, by the batch's number."""
        last = min(first + self._together * chosen.world_size, chosen.batches)
        numbers = range(first, last, chosen.world_size)
        pieces = [chosen.choose(epoch, number) for number in numbers]
        samples_M = np.concatenate(pieces)
        ends = np.cumsum([len(some_M) for some_M in pieces])[:-1]
        labels = np.split(labels_of(self._cache, samples_M), ends)
        fields = {name: np.split(array, ends) for name, array in view_answers(self._cache, samples_M).items()}
        return {
            number: (
                pieces[place],
                {name: torch.from_numpy(split[place]) for name, split in fields.items()},
                torch.from_numpy(labels[place]),
            )
            for place, number in enumerate(numbers)
        }
