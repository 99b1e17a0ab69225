"""A masked language model as the teacher: any model that transformers loads for masked tokens.

Axes: B texts, T tokens, N rows, D channels, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.errors import ModelError, one_line
from logitstore.format.needs import OF_A_MODEL, Gives, Wants
from logitstore.models.head import LinearHead
from logitstore.models.hooks import taken_by
from logitstore.models.load import DTYPES, load_weights, pick_device
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.targets.rows import RowChunk, sent


class MaskedTeacher(ModelTeacher):
    """A loaded masked language model. Its output layer is run at the rows alone, about a seventh of all positions."""

    gives: ClassVar[Gives] = OF_A_MODEL

    def __init__(
        self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str, placement: Placement = WHOLE
    ) -> None:
        """Load the weights with transformers.

        Raises:
            ModelError: the model cannot be loaded, or the device does not exist.
        """
        self._config = config
        self._hold(load_weights(model, config, DTYPES[dtype], "masked-lm", placement, pick_device(device)))

    def head(self, vocabulary: int) -> LinearHead:
        return LinearHead.of(self._model, self._config, vocabulary)

    def rows(self, batch: TeacherBatch, wants: Wants) -> Iterator[RowChunk]:
        layer: Any = self._model.get_output_embeddings()
        with _only_rows(layer, batch.rows_N):
            yield from super().rows(replace(batch, rows_N=torch.arange(len(batch.rows_N))), wants)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, T, V'] of `input_ids` and `attention_mask`, int64[B, T]; within `rows` those of the rows,
        [1, N, V'].

        Raises:
            ModelError: the model cannot take texts of this length.
        """
        moved = {name: sent(value, self.device) for name, value in inputs.items()}
        try:
            output: Tensor = self._model(**moved, **options).logits
        except (IndexError, ValueError) as error:
            length = inputs["input_ids"].shape[1]
            raise ModelError(
                f"{self.name}: it cannot take texts of {length} tokens: {one_line(error).rstrip('.')}. Give a smaller "
                "--max-length."
            ) from error
        return output

    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        layer: Any = self._model.get_output_embeddings()
        with taken_by(layer) as seen:
            logits_BTV = self.logits(inputs)
        return logits_BTV, seen[-1]

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return D of the named features, by running the model on two tokens; see `Teacher`."""
        tokens_BT = torch.zeros(1, 2, dtype=torch.int64)
        with self.recording(names) as seen:
            self.logits({"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT)})
        return {name: int(seen[name].shape[-1]) for name in names}


@contextmanager
def _only_rows(layer: nn.Module | None, rows_N: Tensor) -> Iterator[None]:
    """Have an output layer take the hidden states at some places of [B * T] alone, as [1, N, D], while the context lasts."""

    def narrow(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden_BTD = inputs[0]
        return (hidden_BTD.flatten(0, 1)[sent(rows_N, hidden_BTD.device)][None], *inputs[1:])

    if layer is None:
        raise ModelError("the teacher has no output layer over tokens. Give a masked language model.")
    hook = layer.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        hook.remove()
