"""What every classifier is as a teacher: one row for each input, and a linear layer that gives its logits.

Axes: C classes, D channels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import ClassVar

from torch import Tensor, nn
from transformers import PretrainedConfig

from logitstore.dump.teachers.model import ModelTeacher
from logitstore.errors import BadInput, ModelError
from logitstore.format.needs import OF_A_MODEL, Gives
from logitstore.format.tap_names import FINAL, names_of
from logitstore.models.contrastive import compares_texts
from logitstore.models.head import LinearHead
from logitstore.models.placing.weights import whole_of
from logitstore.models.shape import classifier_of, layer_count, size_errors


def features_asked(config: Callable[[], PretrainedConfig], hidden: str | None, qkv: str | None) -> list[str]:
    """Return the names of the features of a classifier that `--hidden` and `--qkv` name.

    Raises:
        BadInput: an option cannot be read, or names what the model does not have.
    """
    if qkv is None and hidden in (None, FINAL):
        return names_of(hidden, None, 1)
    plain = config()
    layers = 0 if compares_texts(plain) else layer_count(plain)
    if not layers:
        option = f"--hidden {hidden}" if hidden not in (None, FINAL) else f"--qkv {qkv}"
        raise BadInput(
            f"{option}: the teacher is no stack of like layers, so only what its output layer takes is kept. "
            "Give --hidden final."
        )
    return names_of(hidden, qkv, layers, at_places=True)


class ClassifierTeacher(ModelTeacher):
    """A loaded classifier. `final`, what its output layer takes, is one vector; its other features have one for each place."""

    gives: ClassVar[Gives] = OF_A_MODEL

    def head(self, vocabulary: int) -> LinearHead:
        layer = self._classifier()
        bias_C = None if layer.bias is None else whole_of(self._model, layer, "bias").to(self.device)
        return LinearHead(whole_of(self._model, layer).to(self.device), bias_C)

    @abstractmethod
    def probe(self) -> dict[str, Tensor]:
        """Return one small input that the model takes."""

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return D of the named features, by running the model once if others than `final` are among them; see `Teacher`."""
        found = {name: self._classifier().in_features for name in names if name == FINAL}
        return found | {
            name: shape[1] for name, shape in self._shapes([each for each in names if each != FINAL]).items()
        }

    def _shapes(self, names: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Return how many places and channels some features have of the probe.

        Raises:
            ModelError: the model does not have a feature, or not one vector for each place.
        """
        if not names:
            return {}
        inputs = self.probe()
        seen: Mapping[str, Tensor] = {}
        with size_errors(self.name, inputs["pixel_values"]) if "pixel_values" in inputs else nullcontext():
            seen = self.features(inputs, names)
        tokens = inputs["input_ids"].shape[1] if "input_ids" in inputs else None
        for name, value in seen.items():
            if value.dim() != 3 or len(value) != 1 or tokens not in (None, value.shape[1]):
                raise ModelError(
                    f"{self.name}: its {name} is not one vector for each place: its shape is {list(value.shape)}. Leave it out."
                )
        return {name: (value.shape[1], value.shape[2]) for name, value in seen.items()}

    def _classifier(self) -> nn.Linear:
        layer = classifier_of(self._model)
        if layer is None:
            raise ModelError(f"{self.name}: its logits do not come from a linear layer. Use --preset small.")
        return layer
