"""What every teacher can: give logits for inputs, show features of its forward pass, be told from another by its weights.

Axes: B sequences or images, T positions, D channels, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import xxhash
from torch import Tensor

from logitstore.models.head import Head
from logitstore.models.hooks import recording


class Teacher(ABC):
    """A loaded teacher.

    Attributes:
        device: where it runs.
    """

    device: torch.device
    _model: Any

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._model).__name__

    @abstractmethod
    def head(self, vocabulary: int) -> Head:
        """How its hidden states become logits of the first `vocabulary` tokens.

        Raises:
            ModelError: not by a linear head.
        """

    @abstractmethod
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Raw logits [B, T, V'] in the model's dtype, V' including padding rows of the embedding.

        Args:
            inputs: of the model, on any device.
            options: of the model's forward.
        """

    @abstractmethod
    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The logits, and the final hidden state [B, T, D] that its output layer made them from."""

    def recording(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """A context in which `logits` also gives the features named; see `logitstore.models.hooks`."""
        return recording(self._model, names)

    def features(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """The features named, [B, T, D] each in the model's dtype.

        Raises:
            ModelError: a feature that this model does not have.
        """
        with self.recording(names) as seen:
            self.logits(inputs)
        return seen

    @abstractmethod
    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """D of the features named.

        Raises:
            ModelError: a feature that this model does not have, or hidden states that its output layer does not take.
        """

    def fingerprint(self) -> str:
        """xxh3-128 over the name, dtype, shape and bytes of every parameter, in order."""
        return self._fingerprint("")

    def _fingerprint(self, also: str) -> str:
        digest = xxhash.xxh3_128(also.encode())
        for name, value in self._model.named_parameters():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
