"""Load text without a teacher's answers, only tokens and their order, with batches in the same order as those of a cache.

Axes: M samples of a batch.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from logitstore.batch import Batch, laid_out
from logitstore.ordered import OrderedStream
from logitstore.targets import AnyTargets
from logitstore.text import TextSamples


class TextLoader(OrderedStream):
    """A text loader gives batches of text for plain language modelling; `BatchStream` says how to get them."""

    has_targets = False

    def __init__(
        self,
        texts: TextSamples,
        *,
        batch_size: int = 8,
        shuffle: bool = True,
        seed: int = 0,
        packed: bool = False,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 1,
    ) -> None:
        """Plan the batches; the arguments are those of `Loader`.

        Raises:
            BadInput: there are no samples, or an argument is out of range.
        """
        self._texts = texts
        self.text_bytes = texts.bytes
        super().__init__(
            texts,
            batch_size=batch_size,
            batch_rows=None,
            samples=None if shuffle else np.argsort(texts.lengths_S, kind="stable"),
            shuffle=shuffle,
            order=None,
            seed=seed,
            packed=packed,
            rank=rank,
            world_size=world_size,
            workers=workers,
            ahead=None,
            pin_memory=False,
        )

    def targets(self, batch: Batch) -> AnyTargets:
        """Raise ValueError: text has no targets, because no teacher has seen these tokens."""
        raise ValueError("text has no targets")

    def _make(self, epoch: int, number: int) -> Batch:
        samples_M = self._choose(epoch, number)
        chosen: list[Any] = samples_M.tolist()
        return laid_out(
            (self._texts.tokens_of(sample) for sample in chosen),
            (self._texts.positions_of(sample) for sample in chosen),
            self._texts.lengths_of(samples_M),
            samples_M,
            self._packed,
            {},
        )
