"""Copy samples out of the mapped files into one batch of tensors.

Axes: B lines, T tokens, N rows, M samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from logitstore.cache.reader import Cache, Part, texts_of, views_of
from logitstore.cache.taps import Tap
from logitstore.errors import BadInput
from logitstore.pictures import Pictures
from logitstore.types import Array

_GROUPS = ("answer", "features")
"""Fields that hold several tensors by name."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch holds some samples, which are lines of tokens or views of images, and the teacher's answer about each row,
    still packed as stored.

    Attributes:
        input_ids: int64[B, T], padded on the right with 0; None for images.
        attention_mask: int64[B, T], 1 on real tokens; None in a packed batch.
        position_ids: int64[B, T], starting again from 0 at each sample of a packed batch; None otherwise.
        pixel_values: float32[B, 3, H, W], the images as the teacher saw them; None for texts, and where images are left
            out.
        rows: int64[N], the place of each row in the flattened [B * T]; T is 1 for images.
        row_mask: bool[N], False for rows that do not count.
        answer: the stored fields of the rows, by name; a `Decoder` turns them into targets on their own device.
        features: the stored arrays of taps, as `<tap>/<field>`; `Loader.features` decodes them.
        gold: int64[N], the token that follows the row, or the class; -1 where there is none.
        samples: int64, numbers of the samples in the cache; -1 in a batch that only fills up the last step of a rank.
        counts: int64, number of rows of each sample; rows come sample after sample.
        source: number of the cache that the batch comes from, where there are several caches.
        weight: float32[N], weight of each row in the loss; None where all rows weigh the same.
    """

    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    position_ids: Tensor | None = None
    pixel_values: Tensor | None = None
    rows: Tensor
    row_mask: Tensor
    answer: dict[str, Tensor]
    gold: Tensor
    samples: Tensor
    counts: Tensor
    source: int = 0
    weight: Tensor | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    @property
    def gold_logprob(self) -> Tensor:
        """float32[N]: the teacher's logprob of the token that follows, nats."""
        return self.answer["gold_logprob"].float()

    @property
    def entropy(self) -> Tensor:
        """float32[N]: the teacher's entropy, nats."""
        return self.answer["entropy"].float()

    def tensors(self) -> dict[str, Any]:
        """Return the tensors by name, without those that are None; and `source`. Tensors of `answer` and `features` are
        named `answer.<field>` and `features.<tap>/<field>`."""
        named = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in _GROUPS}
        present = {name: value for name, value in named.items() if value is not None}
        grouped = {f"{group}.{name}": value for group in _GROUPS for name, value in getattr(self, group).items()}
        return present | grouped

    @classmethod
    def of(cls, tensors: Mapping[str, Any]) -> Batch:
        """Return the batch that consists of these tensors; the inverse of `tensors`."""
        grouped: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        plain: dict[str, Any] = {}
        for name, value in tensors.items():
            group, dot, rest = name.partition(".")
            (grouped[group] if dot else plain)[rest or name] = value
        return cls(**plain | grouped)

    def to(self, device: torch.device | str) -> Batch:
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory, from which a GPU copies while it computes. PyTorch's loaders look for a
        method of this name."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed = {
            name: change(value) if isinstance(value, Tensor) else value for name, value in self.tensors().items()
        }
        return Batch.of(changed)

    def model_inputs(self) -> dict[str, Any]:
        """Return the keyword arguments for a model of transformers: a causal language model or an image classifier.

        Raises:
            BadInput: the images were left out.
        """
        if self.pixel_values is not None:
            return {"pixel_values": self.pixel_values}
        if self.input_ids is None:
            raise BadInput("a batch of a loader made with with_images=False: it has nothing to show to a model.")
        names = ("input_ids", "attention_mask", "position_ids")
        present = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return present | {"use_cache": False}


def collate(
    cache: Cache, samples_M: Array, packed: bool, taps: Sequence[Tap] = (), weights_S: Array | None = None
) -> Batch:
    """Copy samples, and the features beside them, out of the mapped files into one batch; rows come sample after sample.

    Args:
        cache: the cache to read.
        samples_M: int64, numbers of the samples.
        packed: whether to put several samples into one line.
        taps: taps of the cache; their features come too.
        weights_S: float32, for each sample of the cache, the weight of its rows in the loss.
    """
    located = _located(cache, samples_M)
    spans = [part.span(number) for part, number in located]
    counts_M = np.array([span.stop - span.start for span in spans], np.int64)
    rows = int(counts_M.sum())
    stored = [part.fields for part, _ in located]
    answer = {name: torch.from_numpy(_gathered(stored, spans, name, rows)) for name in cache.manifest.fields}
    lengths_M = np.array([part.samples.lengths_S[number] for part, number in located], np.int64)
    positions = (
        None if count == length - 1 else np.flatnonzero(texts_of(part.samples).mask_of(number))
        for (part, number), count, length in zip(located, counts_M.tolist(), lengths_M.tolist(), strict=True)
    )
    batch = laid_out(
        (texts_of(part.samples).tokens_of(number) for part, number in located),
        positions,
        lengths_M,
        samples_M,
        packed,
        answer,
    )
    weight = None if weights_S is None else np.repeat(weights_S[samples_M].astype(np.float32), counts_M)
    return replace(
        batch,
        features=_features(taps, located, spans, rows),
        weight=None if weight is None else torch.from_numpy(weight),
    )


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


def _features(taps: Sequence[Tap], located: list[tuple[Part, int]], spans: list[slice], rows: int) -> dict[str, Tensor]:
    """Return what some taps store about the same rows."""
    arrays = {}
    for tap in taps:
        beside = [tap.part(part.number) for part, _ in located]
        for name in tap.plan.fields:
            arrays[f"{tap.name}/{name}"] = torch.from_numpy(_gathered(beside, spans, name, rows))
    return arrays


def _located(cache: Cache, samples_M: Array) -> list[tuple[Part, int]]:
    """Return the parts that hold some samples, and the samples' numbers in these parts."""
    parts_M, numbers_M = cache.places(samples_M)
    return [(cache.part(part), number) for part, number in zip(parts_M.tolist(), numbers_M.tolist(), strict=True)]


def laid_out(
    tokens: Iterable[Array],
    positions: Iterable[Array | None],
    lengths_M: Array,
    samples_M: Array,
    packed: bool,
    answer: dict[str, Tensor],
) -> Batch:
    """Put samples into the lines of one batch.

    Args:
        tokens: token ids of each sample.
        positions: the positions of each sample that have a row; None stands for all but the last, which never has one.
        lengths_M: number of tokens of each sample.
        samples_M: numbers of the samples.
        packed: whether to put several samples into one line.
        answer: the stored fields of the rows.
    """
    lines_M, offsets_M, shape = _pack(lengths_M) if packed else _one_each(lengths_M)
    starts_M = lines_M * shape[1] + offsets_M
    input_ids = np.zeros(shape[0] * shape[1], np.int64)
    places, counts = [], []
    for tokens_T, positions_N, start in zip(tokens, positions, starts_M.tolist(), strict=True):
        stop = start + len(tokens_T)
        input_ids[start:stop] = tokens_T
        places.append(np.arange(start, stop - 1) if positions_N is None else start + positions_N)
        counts.append(len(places[-1]))
    rows_N = np.concatenate(places)
    return Batch(
        input_ids=torch.from_numpy(input_ids).view(shape),
        attention_mask=None
        if packed
        else torch.from_numpy((np.arange(shape[1]) < lengths_M[:, None]).astype(np.int64)),
        position_ids=torch.from_numpy(_positions(starts_M, lengths_M, shape)) if packed else None,
        rows=torch.from_numpy(rows_N),
        row_mask=torch.ones(len(rows_N), dtype=torch.bool),
        answer=answer,
        gold=torch.from_numpy(input_ids[rows_N + 1]),
        samples=torch.from_numpy(np.array(samples_M, np.int64)),
        counts=torch.tensor(counts, dtype=torch.int64),
    )


def _gathered(stored: list[dict[str, Array]], spans: list[slice], name: str, rows: int) -> Array:
    """Copy one field of all rows once, from the mapped files to where it stays."""
    first = stored[0][name]
    gathered = np.empty((rows, *first.shape[1:]), first.dtype)
    start = 0
    for arrays, span in zip(stored, spans, strict=True):
        stop = start + span.stop - span.start
        gathered[start:stop] = arrays[name][span]
        start = stop
    return gathered


def _positions(starts_M: Array, lengths_M: Array, shape: tuple[int, int]) -> Array:
    """Return int64[B, T]: positions that start again at each sample. Padding stays 0, so each padding token is a sequence
    of its own."""
    positions = np.zeros(shape[0] * shape[1], np.int64)
    for start, length in zip(starts_M.tolist(), lengths_M.tolist(), strict=True):
        positions[start : start + length] = np.arange(length)
    return positions.reshape(shape)


def _one_each(lengths: Array) -> tuple[Array, Array, tuple[int, int]]:
    """Put each sample into a line of its own; return line numbers, offsets and shape."""
    return np.arange(len(lengths)), np.zeros(len(lengths), np.int64), (len(lengths), int(lengths.max()))


def _pack(lengths: Array) -> tuple[Array, Array, tuple[int, int]]:
    """Put samples, the longest first, into the first line with room; lines are as wide as the longest sample. Return line
    numbers, offsets and shape."""
    width = int(lengths.max())
    lines, offsets = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    used: list[int] = []
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        line = next((line for line, full in enumerate(used) if full + length <= width), len(used))
        if line == len(used):
            used.append(0)
        lines[index], offsets[index] = line, used[line]
        used[line] += length
    return lines, offsets, (len(used), width)
