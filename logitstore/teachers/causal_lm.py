"""A causal language model as the teacher: any that transformers loads, from a folder, the hub or a GGUF file.

Axes: B sequences, T tokens, D channels, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from transformers import PretrainedConfig

from logitstore.errors import ModelError
from logitstore.head import Head
from logitstore.models import DTYPES, load_weights, pick_device
from logitstore.recording import recording
from logitstore.tap_names import FINAL
from logitstore.types import ModelRef


class CausalTeacher:
    """A loaded teacher."""

    def __init__(self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str) -> None:
        """Load the weights; takes as long as transformers takes.

        Raises:
            ModelError: the model cannot be loaded, or the device does not exist.
        """
        self.device = pick_device(device)
        self._config = config
        self._model = load_weights(model, config, DTYPES[dtype]).to(self.device).eval()

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._model).__name__

    def head(self, vocabulary: int) -> Head:
        """How its hidden states become logits of the first `vocabulary` tokens.

        Raises:
            ModelError: not by a linear head.
        """
        return Head.of(self._model, self._config, vocabulary)

    @torch.inference_mode()
    def logits(self, tokens_BT: Tensor, attention_BT: Tensor, **options: Any) -> Tensor:
        """Raw logits [B, T, V'] in the model's dtype, V' including padding rows of the embedding.

        Args:
            tokens_BT: int64 token ids, padded on the right.
            attention_BT: int64, 1 on real tokens.
            options: of the model's forward.
        """
        output: Tensor = self._model(
            input_ids=tokens_BT.to(self.device), attention_mask=attention_BT.to(self.device), use_cache=False, **options
        ).logits
        return output

    def logits_and_hidden(self, tokens_BT: Tensor, attention_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the final hidden state [B, T, D] that its output layer made them from."""
        seen: list[Tensor] = []

        def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            seen.append(inputs[0])

        output_layer: Any = self._model.get_output_embeddings()
        hook = output_layer.register_forward_pre_hook(keep)
        try:
            logits_BTV = self.logits(tokens_BT, attention_BT)
        finally:
            hook.remove()
        return logits_BTV, seen[-1]

    def recording(self, names: Sequence[str]) -> AbstractContextManager[dict[str, Tensor]]:
        """A context in which `logits` also gives the features named; see `logitstore.recording`."""
        return recording(self._model, names)

    def features(self, tokens_BT: Tensor, attention_BT: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The features named, [B, T, D] each in the model's dtype; of the logits only the last position's are made.

        Raises:
            ModelError: a feature that this model does not have.
        """
        keep: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            keep = {"logits_to_keep": 1}
        with self.recording(names) as seen:
            self.logits(tokens_BT, attention_BT, **keep)
        return seen

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """D of the features named, found out with two tokens.

        Raises:
            ModelError: a feature that this model does not have, or hidden states that its output layer does not take.
        """
        tokens_BT = torch.zeros(1, 2, dtype=torch.int64)
        with self.recording([*names, FINAL]) as seen:
            _, taken_BTD = self.logits_and_hidden(tokens_BT, torch.ones_like(tokens_BT))
        if FINAL in names and not torch.equal(seen[FINAL], taken_BTD):
            raise ModelError(f"{self.name}: its output layer takes something else than its final hidden states.")
        return {name: int(seen[name].shape[-1]) for name in names}

    def fingerprint(self) -> str:
        """xxh3-128 over the name, dtype, shape and bytes of every parameter, in order."""
        digest = xxhash.xxh3_128()
        for name, value in self._model.named_parameters():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()
