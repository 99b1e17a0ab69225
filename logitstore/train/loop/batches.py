"""The loader's batches, as the Trainer takes them, and the rows that count in them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.utils.data import Dataset

from logitstore.train.loader.stream import BatchStream


def row_counts(tensors: Mapping[str, Tensor]) -> Tensor:
    """Return int64[2]: how many rows of a batch count, and how many of these have a gold token or label."""
    mask_N = tensors["row_mask"]
    return torch.stack([mask_N.sum(), (mask_N & (tensors["gold"] >= 0)).sum()])


class Batches(Dataset[dict[str, Tensor]]):
    """Give the loader's batches by (epoch, step), as dictionaries of tensors, which the Trainer knows how to move."""

    def __init__(self, loader: BatchStream) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.count

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        return self._loader.at(*where).tensors()
