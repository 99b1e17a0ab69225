"""Texts as the inputs of a classifier.

Axes: B texts, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from logitstore.core.types import Array
from logitstore.errors import BadInput


class Encoder:
    """Encodes texts with the tokenizer of one model, cut to a length.

    Args:
        tokenizer: that of the model.
        max_length: most tokens of a text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
        self.tokenizer, self.max_length = tokenizer, max_length

    def lengths(self, texts: Sequence[str]) -> Array:
        """Return int64: tokens of each text. Raises BadInput: a text has none."""
        lengths = np.array([len(ids) for ids in self._ids(texts)], np.int64)
        if not lengths.all():
            raise BadInput(f"text {int(lengths.argmin())} of the data has no tokens. Remove it.")
        return lengths

    def __call__(self, texts: Sequence[str]) -> dict[str, Any]:
        """Return `input_ids` and `attention_mask`, int64[B, T], padded on the right with the tokenizer's padding."""
        padded = self.tokenizer.pad({"input_ids": self._ids(texts)}, padding_side="right", return_tensors="pt")
        return {name: padded[name] for name in ("input_ids", "attention_mask")}

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # padding is left to `pad`, so that threads never change the settings of one tokenizer under each other
        found: list[list[int]] = self.tokenizer(list(texts), truncation=True, max_length=self.max_length)["input_ids"]
        return found
