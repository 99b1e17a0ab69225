"""Texts laid into the lines of a batch, padded or packed.

Axes: B lines, T tokens, N rows, M samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Array
from logitstore.store.cache import Cache
from logitstore.store.taps import Tap
from logitstore.text.contexts.contexts import Contexts
from logitstore.text.lines.pack import packed as lines_packed
from logitstore.text.lines.pack import positions as positions_of
from logitstore.text.stored import texts_of
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.collate import Chosen
from logitstore.train.loader.gather import gathered_answers, gathered_features, located_samples


def collate(
    cache: Cache,
    samples_M: Array,
    packed: bool,
    taps: Sequence[Tap] = (),
    weights_S: Array | None = None,
    contexts: Contexts | None = None,
) -> Batch:
    """Copy samples, and the features beside them, out of the mapped files into one batch; rows come sample after sample.

    Args:
        cache: the cache to read.
        samples_M: int64, numbers of the samples.
        packed: whether to put several samples into one line.
        taps: taps of the cache; their features come too.
        weights_S: float32, for each sample of the cache, the weight of its rows in the loss.
        contexts: what stands before the answers; None for what the teacher read.
    """
    located = located_samples(cache, samples_M)
    spans = [part.span(number) for part, number in located]
    counts_M = np.array([span.stop - span.start for span in spans], np.int64)
    rows = int(counts_M.sum())
    answer = gathered_answers(cache, located, spans, rows)
    lengths_M = np.array([part.samples.lengths_S[number] for part, number in located], np.int64)
    positions: Iterable[Array | None] = (
        None if count == length - 1 else np.flatnonzero(texts_of(part.samples).mask_of(number))
        for (part, number), count, length in zip(located, counts_M.tolist(), lengths_M.tolist(), strict=True)
    )
    unanswered = None
    if texts_of(located[0][0].samples).has_gold:
        unanswered = [texts_of(part.samples).unanswered_in(number) for part, number in located]
    tokens: Iterable[Array] = (texts_of(part.samples).tokens_of(number) for part, number in located)
    if contexts is not None:
        shifts = [contexts.shift(sample) for sample in samples_M.tolist()]
        tokens = (contexts.read(sample, each) for sample, each in zip(samples_M.tolist(), tokens, strict=True))
        positions = (
            (np.arange(length - 1) if own is None else own) + shift
            for own, length, shift in zip(positions, lengths_M.tolist(), shifts, strict=True)
        )
        unanswered = unanswered and [own + shift for own, shift in zip(unanswered, shifts, strict=True)]
        lengths_M = contexts.lengths_S[samples_M]
    batch = laid_out(
        tokens,
        positions,
        lengths_M,
        samples_M,
        packed,
        answer,
        unanswered,
        None if weights_S is None else weights_S[samples_M].astype(np.float32),
    )
    return replace(batch, features=gathered_features(taps, located, spans, rows))


def laid_out(
    tokens: Iterable[Array],
    positions: Iterable[Array | None],
    lengths_M: Array,
    samples_M: Array,
    packed: bool,
    answer: dict[str, Tensor],
    unanswered: Sequence[Array] | None = None,
    weights_M: Array | None = None,
) -> Batch:
    """Put samples into the lines of one batch.

    Args:
        tokens: token ids of each sample.
        positions: the positions of each sample that have a row; None stands for all but the last, which never has one.
        lengths_M: number of tokens of each sample.
        samples_M: numbers of the samples.
        packed: whether to put several samples into one line.
        answer: the stored fields of the rows.
        unanswered: the positions of each sample that the data ask about and that have no row; None where the
            whole cache has none of these.
        weights_M: float32, what the rows and these positions of each sample count; None where all count alike.
    """
    lines_M, offsets_M, shape = lines_packed(lengths_M) if packed else _one_each(lengths_M)
    starts_M = lines_M * shape[1] + offsets_M
    input_ids = np.zeros(shape[0] * shape[1], np.int64)
    places, counts = [], []
    for tokens_T, positions_N, start in zip(tokens, positions, starts_M.tolist(), strict=True):
        stop = start + len(tokens_T)
        input_ids[start:stop] = tokens_T
        places.append(np.arange(start, stop - 1) if positions_N is None else start + positions_N)
        counts.append(len(places[-1]))
    rows_N = np.concatenate(places)
    beside: dict[str, Array] = {}
    if unanswered is not None:
        others_G = np.concatenate([start + own for start, own in zip(starts_M, unanswered, strict=True)])
        beside = {"rows": others_G, "gold": input_ids[others_G + 1], "mask": np.ones(len(others_G), np.bool_)}
        if weights_M is not None:
            beside["weight"] = np.repeat(weights_M, [len(own) for own in unanswered])
    if packed:
        layout = {"position_ids": torch.from_numpy(positions_of(starts_M, lengths_M, shape))}
    else:
        layout = {"attention_mask": torch.from_numpy((np.arange(shape[1]) < lengths_M[:, None]).astype(np.int64))}
    return Batch(
        inputs={"input_ids": torch.from_numpy(input_ids).view(shape), **layout, "use_cache": False},
        rows=torch.from_numpy(rows_N),
        row_mask=torch.ones(len(rows_N), dtype=torch.bool),
        answer=answer,
        gold=torch.from_numpy(input_ids[rows_N + 1]),
        samples=torch.from_numpy(np.array(samples_M, np.int64)),
        counts=torch.tensor(counts, dtype=torch.int64),
        weight=None if weights_M is None else torch.from_numpy(np.repeat(weights_M, counts)),
        unanswered={name: torch.from_numpy(value) for name, value in beside.items()},
    )


def _one_each(lengths: Array) -> tuple[Array, Array, tuple[int, int]]:
    """Put each sample into a line of its own; return line numbers, offsets and shape."""
    return np.arange(len(lengths)), np.zeros(len(lengths), np.int64), (len(lengths), int(lengths.max()))


class TextCollator:
    """Lays texts into batches; see `logitstore.train.loader.collate.Collator`.

    Args:
        cache: to read.
        packed: several texts to a line.
        taps: of the cache, whose features come too.
        weights: float32, what the rows of each of the cache's samples count; None where all count alike.
        bytes_per_batch: of the stored rows; not used here.
        contexts: what stands before the answers; None for what the teacher read.
    """

    def __init__(
        self,
        cache: Cache,
        *,
        packed: bool,
        taps: Sequence[Tap],
        weights: Array | None,
        bytes_per_batch: int,
        contexts: Contexts | None = None,
    ) -> None:
        self._cache, self._packed, self._taps, self._weights = cache, packed, taps, weights
        self.contexts = contexts

    def batch(self, chosen: Chosen, epoch: int, number: int) -> Batch:
        samples_M = chosen.choose(epoch, number)
        return collate(self._cache, samples_M, self._packed, self._taps, self._weights, self.contexts)
