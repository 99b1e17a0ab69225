"""Images mixed when they are read, with the stored answers about both: no teacher is asked about the mixed ones.

INFER ("Breaking Class Barriers: Efficient Dataset Distillation via Inter-Class Feature Compensator") keeps one answer for each
image and mixes labels as mixup mixes images: y(l a + (1 - l) b) = l y(a) + (1 - l) y(b).

Axes: N rows, one for each image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from logitstore.core.order import salt_of
from logitstore.train.loader.batch import Batch

_USE = 29
"""Keeps these random numbers apart from those of an order."""


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Mixes each image of a batch with another one of it.

    Attributes:
        spread: a of Beta(a, a), of which the share of the first image is drawn (mixup, Zhang et al. 2018).
        seed: of the draws; they depend on it, the step and the batch's first image alone.
    """

    spread: float
    seed: int

    def mixed(self, batch: Batch, step: int) -> tuple[Batch, Batch, Tensor]:
        """Return the batch with mixed images, the batch of the partners, and float32[N], the share of the first image.

        Args:
            batch: of images.
            step: number of the step of the run.
        """
        count, pixels = len(batch.rows), batch.inputs["pixel_values"]
        draw = np.random.default_rng(salt_of(self.seed, step, _USE) ^ int(batch.samples[0]) % (1 << 32))
        other_N = torch.from_numpy(draw.permutation(count)).to(batch.rows.device)
        share_N = torch.from_numpy(draw.beta(self.spread, self.spread, count).astype(np.float32)).to(batch.rows.device)
        own = share_N.to(pixels.dtype)[:, None, None, None]
        inputs = batch.inputs | {"pixel_values": own * pixels + (1 - own) * pixels[other_N]}
        partners = replace(batch, answer={name: value[other_N] for name, value in batch.answer.items()})
        return replace(batch, inputs=inputs), partners, share_N
