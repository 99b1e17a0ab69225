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
        indices: index of each sample in the list that the batches were made of, such as the samples of a part.
        samples: the samples; a view has its checksums as soon as its batch goes to the teacher.
        gold_N: int64, the token after each row's position, or the class; -1 if there is none.
    """

    indices: list[int]
    samples: list[Asked]
    gold_N: Tensor

    @property
    def counts(self) -> list[int]:
        """Count of rows of each sample."""
        return [sample.rows for sample in self.samples]

    @property
    def keys(self) -> list[str]:
        """Keys of the samples."""
        return [sample.key for sample in self.samples]


@dataclass(frozen=True, kw_only=True)
class RowChunk:
    """A few rows of a batch, on the teacher's device.

    Attributes:
        span: the rows of the batch that the chunk holds.
        logits_nV: raw logits, with padding columns beyond the vocabulary.
        hidden_nD: the hidden states that the head made the logits from; None if not requested.
        gold_n: int64, gold tokens; see `RowBatch`.
    """

    span: slice
    logits_nV: Tensor
    hidden_nD: Tensor | None
    gold_n: Tensor


def split(batch: RowBatch, targets: dict[str, Array]) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each sample in a batch, with its rows of the batch's targets."""
    ends = np.cumsum(batch.counts)
    for index, count, end in zip(batch.indices, batch.counts, ends, strict=True):
        yield index, Answer(fields={name: value[end - count : end] for name, value in targets.items()})
