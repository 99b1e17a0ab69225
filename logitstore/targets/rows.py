"""Rows of samples on their way: batches of them, and chunks of a batch.

Axes: N rows of a batch (n of a chunk), V vocabulary, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from logitstore.core.types import Answer, Array, Asked


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """The rows of some samples, sample after sample.

    Attributes:
        indices: numbers of the samples among those of their part, or those asked about.
        samples: the samples; those of images complete, once they are about to be asked.
        gold_N: int64, the token after each row's position, or the class; -1 where there is none.
    """

    indices: list[int]
    samples: list[Asked]
    gold_N: Tensor

    @property
    def counts(self) -> list[int]:
        """Rows of each sample."""
        return [sample.rows for sample in self.samples]

    @property
    def keys(self) -> list[str]:
        """Of the samples."""
        return [sample.key for sample in self.samples]


@dataclass(frozen=True, kw_only=True)
class RowChunk:
    """A few rows of a batch, on the teacher's device.

    Attributes:
        span: which rows of the batch.
        logits_nV: raw, with padding columns beyond the vocabulary.
        hidden_nD: what the head made them from, if it was asked for.
        gold_n: int64.
    """

    span: slice
    logits_nV: Tensor
    hidden_nD: Tensor | None
    gold_n: Tensor


def split(batch: RowBatch, targets: dict[str, Array]) -> Iterator[tuple[int, Answer]]:
    """Each sample's number and its own rows of a batch's targets."""
    ends = np.cumsum(batch.counts)
    for index, count, end in zip(batch.indices, batch.counts, ends, strict=True):
        yield index, Answer(fields={name: value[end - count : end] for name, value in targets.items()})
