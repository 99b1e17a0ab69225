"""An encoder of texts as the teacher: any stack of layers over tokens that transformers loads, with a pooling.

Axes: B texts, T tokens, D channels. A text has one row, whose feature `final` is its vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.errors import ModelError, one_line
from logitstore.format.needs import FEATURES, LOGITS, Gives
from logitstore.models.load import DTYPES, load_weights, pick_device
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.models.pooling.described import Pooling


class TextEncoder(ModelTeacher):
    """A loaded encoder. It has no distribution: its logits are those of a vocabulary of one, which say nothing."""

    gives: ClassVar[Gives] = frozenset({LOGITS, FEATURES})

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        dtype: str,
        device: str,
        pooling: Pooling,
        placement: Placement = WHOLE,
    ) -> None:
        """Load the weights with transformers.

        Args:
            model: where it is.
            config: of it.
            dtype: of the weights.
            device: where it lies.
            pooling: how it pools.
            placement: how it is spread and packed.

        Raises:
            ModelError: the model cannot be loaded, or the device does not exist.
        """
        loaded: Any = load_weights(model, config, DTYPES[dtype], "embedding", placement, pick_device(device))
        loaded.settle(pooling)
        self._hold(loaded)

    @property
    def name(self) -> str:
        """The encoder's class."""
        return type(self._model.encoder).__name__

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return zeros [B, 1, 1]; the vectors are recorded on the way.

        Raises:
            ModelError: the model cannot take texts of this length.
        """
        moved = {name: value.to(self.device) for name, value in inputs.items()}
        try:
            vectors_BD: Tensor = self._model(**moved, **options).logits
        except (IndexError, ValueError) as error:
            length = inputs["input_ids"].shape[1]
            raise ModelError(
                f"{self.name}: it cannot take texts of {length} tokens: {one_line(error).rstrip('.')}. Give a smaller "
                "--max-length."
            ) from error
        return torch.zeros(len(vectors_BD), 1, 1, device=vectors_BD.device)

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(names, self._model.width)
