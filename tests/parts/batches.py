"""Batches of a loader, compared."""

from __future__ import annotations

import torch

from logitstore.train.loader.batch import Batch


def visited(batch: Batch) -> list[int]:
    return [int(sample) for sample in batch.samples if sample >= 0]


def same(a: Batch, b: Batch) -> bool:
    left, right = a.tensors(), b.tensors()
    return left.keys() == right.keys() and all(
        torch.equal(left[name], right[name]) if isinstance(left[name], torch.Tensor) else left[name] == right[name]
        for name in left
    )
