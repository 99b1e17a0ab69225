"""The loader's batches, as the Trainer takes them, and what the rows that count in them weigh in the loss of a step.

Axes: N rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from logitstore.train.loader.batch import Batch
from logitstore.train.loader.stream import BatchStream


def row_counts(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return int64[2]: how many rows of a batch count, and how many of these have a gold token or label."""
    mask_N = tensors["row_mask"]
    return torch.stack([mask_N.sum(), (mask_N & (tensors["gold"] >= 0)).sum()])


def row_weights(
    batch: Batch, counts: Tensor, *, processes: int, has_unlabelled: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return float32[N], the weights by which the losses of a batch sum to its share of the mean over a step; and the factors
    of their cross-entropy, where they are not 1.

    Args:
        batch: one of the step.
        counts: int64[2], the sum of `row_counts` over all batches of the step, of all processes.
        processes: number of processes, over which gradients are averaged afterwards, although `counts` covers all.
        has_unlabelled: whether there are rows without a gold token or label. Cross-entropy is the mean over the labelled
            rows of the step, while the loss is one over all of its rows.
    """
    count, labelled = counts
    gold_scale_N = None
    if has_unlabelled:
        gold_scale_N = (batch.row_mask & (batch.gold >= 0)) * (count / labelled.clamp(min=1))
    weights_N = batch.row_mask * (processes / count.clamp(min=1))
    return weights_N if batch.weight is None else weights_N * batch.weight, gold_scale_N


class Batches(Dataset[dict[str, Tensor]]):
    """Give the loader's batches by (epoch, step), as dictionaries of tensors, which the Trainer knows how to move."""

    def __init__(self, loader: BatchStream) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.count

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        return self._loader.at(*where).tensors()
