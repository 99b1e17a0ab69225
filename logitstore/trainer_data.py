"""Give our batches the form in which the Hugging Face Trainer takes data."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import Dataset

from logitstore.stream import BatchStream


class Batches(Dataset[dict[str, Tensor]]):
    """Give the loader's batches by (epoch, step), as dictionaries of tensors, which the Trainer knows how to move."""

    def __init__(self, loader: BatchStream) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return self._loader.count

    def __getitem__(self, where: tuple[int, int]) -> dict[str, Tensor]:
        return self._loader.at(*where).tensors()


class EpochSteps:
    """Name each step of the current epoch, as a batch sampler of PyTorch."""

    def __init__(self, steps: int) -> None:
        self.epoch, self._count = 0, steps

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter([[(self.epoch, step)] for step in range(self._count)])
