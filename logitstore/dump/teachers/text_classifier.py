"""A text classifier as the teacher: any model that transformers loads for the classes of texts.

Axes: B texts, T tokens, D channels, C classes. A text has one row, so logits are [B, 1, C].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.classifier import ClassifierTeacher
from logitstore.errors import ModelError, one_line
from logitstore.format.tap import Places
from logitstore.format.tap_names import FINAL
from logitstore.models.load import DTYPES, load_weights, pick_device
from logitstore.models.placing.placement import WHOLE, Placement


class TextClassifier(ClassifierTeacher):
    """A loaded classifier; all its features but `final` have a vector for each token."""

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        dtype: str,
        device: str,
        pad: int,
        placement: Placement = WHOLE,
    ) -> None:
        """Load the weights with transformers.

        Args:
            model: where it is.
            config: of it.
            dtype: of the weights.
            device: where it lies.
            pad: the id of padding, which decoders look for; it is taken where the configuration names none.
            placement: how it is spread and packed.

        Raises:
            ModelError: the model cannot be loaded, or the device does not exist.
        """
        self._hold(load_weights(model, config, DTYPES[dtype], "text-classification", placement, pick_device(device)))
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = pad

    def probe(self) -> dict[str, Tensor]:
        tokens_BT = torch.zeros(1, 2, dtype=torch.int64)
        return {"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT)}

    def places(self, name: str) -> Places:
        return None if name == FINAL else "tokens"

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, 1, C]; see `Teacher`.

        Raises:
            ModelError: the model cannot take texts of this length.
        """
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        try:
            output: Tensor = self._model(**moved, **options).logits
        except (IndexError, ValueError) as error:
            length = inputs["input_ids"].shape[1]
            raise ModelError(
                f"{self.name}: it cannot take texts of {length} tokens: {one_line(error).rstrip('.')}. Give a smaller "
                "--max-length."
            ) from error
        return output[:, None]

    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with self.recording([FINAL]) as seen:
            logits_B1C = self.logits(inputs)
        return logits_B1C, seen[FINAL]
