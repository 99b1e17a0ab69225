"""The interface of every teacher: logits, features of the forward pass, and a fingerprint of the weights.

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

from logitstore.models.head import LinearHead
from logitstore.models.hooks import recording


class Teacher(ABC):
    """A loaded teacher.

    Attributes:
        device: the device that the model runs on.
    """

    device: torch.device
    _model: Any

    @property
    def name(self) -> str:
        """Name of the model's class."""
        return type(self._model).__name__

    @abstractmethod
    def head(self, vocabulary: int) -> LinearHead:
        """Return the head, which turns hidden states into logits of the first `vocabulary` tokens.

        Raises:
            ModelError: the model has no linear head.
        """

    @abstractmethod
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, T, V'] in the model's dtype; V' includes padding rows of the embedding.

        Args:
            inputs: inputs of the model, on any device.
            options: further arguments of the model's forward.
        """

    @abstractmethod
    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the logits, and the final hidden state [B, T, D] that the output layer made them from."""

    def recording(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """Return a context in which calls of `logits` also record the named features; see `logitstore.models.hooks`."""
        return recording(self._model, names)

    def features(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """Return the named features, each [B, T, D] in the model's dtype.

        Raises:
            ModelError: the model does not have a feature.
        """
        with self.recording(names) as seen:
            self.logits(inputs)
        return seen

    @abstractmethod
    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return D, the count of channels, of each named feature.

        Raises:
            ModelError: the model does not have a feature, or its output layer does not take the final hidden states.
        """

    def fingerprint(self) -> str:
        """Return the xxh3-128 of the name, dtype, shape and bytes of every parameter, in order."""
        return self._fingerprint("")

    def _fingerprint(self, also: str) -> str:
        digest = xxhash.xxh3_128(also.encode())
        for name, value in self._model.named_parameters():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
