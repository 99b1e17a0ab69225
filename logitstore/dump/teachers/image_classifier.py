"""An image classifier as the teacher: any classifier that transformers loads, or CLIP with the names of the classes.

Axes: B images, D channels, C classes, T = 1, the only position of an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.classifier import ClassifierTeacher
from logitstore.format.tap import Places
from logitstore.format.tap_names import FINAL
from logitstore.models.hooks import taken_by
from logitstore.models.load import DTYPES, load_weights, pick_device
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.models.shape import size_errors


class ImageTeacher(ClassifierTeacher):
    """A loaded classifier; all its features but `final` have a vector for each place, such as the patches of an image."""

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        dtype: str,
        device: str,
        placement: Placement = WHOLE,
        size: tuple[int, int] = (224, 224),
    ) -> None:
        """Load the weights with transformers.

        Args:
            model: the model.
            config: its configuration.
            dtype: number format of its weights.
            device: name of the device.
            placement: how it is spread and packed.
            size: height and width of the images that it will be shown.

        Raises:
            ModelError: the model cannot be loaded, or the device does not exist.
        """
        self._load(model, config, dtype, device, placement, "image-classification")
        self._size = size
        self._places: dict[str, Places] = {FINAL: None}

    def probe(self) -> dict[str, Tensor]:
        return {"pixel_values": torch.zeros(1, 3, *self._size)}

    def places(self, name: str) -> Places:
        if name not in self._places:
            self._places[name] = self._shapes([name])[name][0]
        return self._places[name]

    def _load(
        self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str, placement: Placement, kind: str
    ) -> None:
        self._dtype = DTYPES[dtype]
        self._hold(load_weights(model, config, self._dtype, kind, placement, pick_device(device)))

    @property
    def classes(self) -> int:
        """Count of the classes."""
        return int(self._model.config.num_labels)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, 1, C] for `pixel_values`, float32[B, 3, H, W]; see `Teacher`.

        Raises:
            ModelError: the model does not accept images of this size.
        """
        with size_errors(self.name, pixels_B3HW := self._pixels(inputs)):
            output: Tensor = self._model(pixel_values=pixels_B3HW, **options).logits
        return output[:, None]

    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with taken_by(self._classifier()) as seen:
            logits_BTC = self.logits(inputs)
        return logits_BTC, seen[-1].flatten(1)[:, None]

    def _pixels(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return inputs["pixel_values"].to(self.device, self._dtype)
