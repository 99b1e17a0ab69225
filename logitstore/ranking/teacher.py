"""A cross-encoder as the teacher: a model that reads a query with a document, and gives one number.

Axes: N pairs, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.classification.dump import by_length
from logitstore.core.types import ModelRef
from logitstore.dump.teachers.text_classifier import TextClassifier
from logitstore.format.needs import LOGITS, Gives
from logitstore.models.placing.placement import WHOLE, Placement


class CrossEncoder(TextClassifier):
    """A loaded cross-encoder. It is shown the pairs of a batch a few at a time, those of similar length together."""

    gives: ClassVar[Gives] = frozenset({LOGITS})

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        dtype: str,
        device: str,
        pad: int,
        budget: int,
        side: str,
        placement: Placement = WHOLE,
    ) -> None:
        """Load the weights with transformers; see `TextClassifier`.

        Args:
            model, config, dtype, device, pad, placement: see `TextClassifier`.
            budget: most tokens of one forward pass, padding included.
            side: where padding stands, left or right.
        """
        super().__init__(model, config, dtype, device, pad, placement)
        self._budget, self._side = budget, side

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return the scores [N, 1, 1] of all pairs of a batch; see `Teacher`.

        Raises:
            ModelError: the model cannot take pairs of this length.
        """
        lengths_N = inputs["attention_mask"].sum(1).numpy()
        width = inputs["attention_mask"].shape[1]
        found: Tensor | None = None
        for some in by_length(lengths_N, self._budget):
            length = int(lengths_N[some[0]])
            shown = slice(0, length) if self._side == "right" else slice(width - length, width)
            cut = {name: value[np.array(some)][:, shown] for name, value in inputs.items()}
            scores = super().logits(cut, **options)
            if found is None:
                found = scores.new_empty(len(lengths_N), *scores.shape[1:])
            found[torch.tensor(some, device=scores.device)] = scores
        if found is None:
            raise ValueError("a batch of no pairs")
        return found
