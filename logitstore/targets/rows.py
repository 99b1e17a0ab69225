"""Rows of samples on their way: batches of them, and chunks of a batch.

Axes: N rows of a batch (n of a chunk), K slots of a list, V vocabulary, D channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from logitstore.core.types import Answer, Array, Asked


def sent(value: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device. On the way to a GPU nothing waits: the copy takes its turn there, and the value is read
    before, into page-locked memory of the driver if it does not lie in such memory."""
    return value.to(device, non_blocking=device.type == "cuda")


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
class TopLogprobs:
    """What a teacher of lists says about n rows.

    Attributes:
        ids_nK: int64, the most probable tokens by falling probability.
        logprobs_nK: float, nats at temperature 1, of the whole distribution; -inf in the empty slots after a shorter list.
        gold_logprob_n: float, the logprob of `gold_n`, listed or not; anything where there is no gold token.
    """

    ids_nK: Tensor
    logprobs_nK: Tensor
    gold_logprob_n: Tensor


@dataclass(frozen=True, kw_only=True)
class RowChunk:
    """A few rows of a batch, on the teacher's device.

    Attributes:
        span: which rows of the batch.
        gold_n: int64, the token after each row's position; -1 where there is none.
        logits_nV: raw, with padding columns beyond the vocabulary; None from a teacher of lists.
        hidden_nD: what the head made them from, if it was asked for.
        top: the most probable tokens, from a teacher of lists.
    """

    span: slice
    gold_n: Tensor
    logits_nV: Tensor | None = None
    hidden_nD: Tensor | None = None
    top: TopLogprobs | None = None

    def logits(self) -> Tensor:
        """Return `logits_nV`, for what cannot do without. Raises ValueError where the teacher was not asked for logits."""
        if self.logits_nV is None:
            raise ValueError("these rows have no logits")
        return self.logits_nV


def split(
    batch: RowBatch, targets: dict[str, Array], counts: Sequence[int] | None = None
) -> Iterator[tuple[int, Answer]]:
    """Yield the index of each sample in a batch, with its rows of the batch's targets; `counts` are those of `batch`, unless
    they are given."""
    counts = batch.counts if counts is None else counts
    ends = np.cumsum(counts)
    for index, count, end in zip(batch.indices, counts, ends, strict=True):
        yield index, Answer(fields={name: value[end - count : end] for name, value in targets.items()})
