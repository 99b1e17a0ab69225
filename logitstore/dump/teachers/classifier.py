"""What every classifier is as a teacher: one row for each input, and a linear layer that gives its logits.

Axes: C classes, D channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from logitstore.dump.teachers.model import ModelTeacher
from logitstore.errors import ModelError
from logitstore.format.needs import OF_A_MODEL, Gives
from logitstore.models.head import LinearHead
from logitstore.models.placing.weights import whole_of
from logitstore.models.shape import classifier_of


class ClassifierTeacher(ModelTeacher):
    """A loaded classifier; of its features only `final`, what its output layer takes, is kept."""

    gives: ClassVar[Gives] = OF_A_MODEL

    def head(self, vocabulary: int) -> LinearHead:
        layer = self._classifier()
        bias_C = None if layer.bias is None else whole_of(self._model, layer, "bias").to(self.device)
        return LinearHead(whole_of(self._model, layer).to(self.device), bias_C)

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        return {name: self._classifier().in_features for name in names}

    def _classifier(self) -> nn.Linear:
        layer = classifier_of(self._model)
        if layer is None:
            raise ModelError(f"{self.name}: its logits do not come from a linear layer. Use --preset small.")
        return layer
