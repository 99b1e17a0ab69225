"""CLIP and models like it as the teacher: the classes are named by texts.

Axes: B images, D channels, C classes, T the one position of an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.image_classifier import ImageTeacher
from logitstore.errors import ModelError, one_line
from logitstore.format.needs import HIDDEN, LOGITS, Gives
from logitstore.models.contrastive import scale_of
from logitstore.models.head import LinearHead
from logitstore.models.load import ZERO_SHOT, load_tokenizer
from logitstore.models.placing.placement import WHOLE, Placement
from logitstore.models.shape import size_errors


class ZeroShotTeacher(ImageTeacher):
    """CLIP or a similar model: embeddings of texts that name the classes are the output layer (Radford et al. 2021, 3.1)."""

    gives: ClassVar[Gives] = frozenset({LOGITS, HIDDEN})

    def __init__(
        self,
        model: ModelRef,
        config: PretrainedConfig,
        dtype: str,
        device: str,
        texts: Sequence[str],
        size: tuple[int, int],
        placement: Placement = WHOLE,
    ) -> None:
        """Load the weights, embed one text for each class, and compare the logits of a picture with the model's own.

        Args:
            model: the model.
            config: its configuration.
            dtype: number format of its weights.
            device: name of the device.
            texts: one for each class.
            size: height and width of the images that it will be shown.
            placement: how it is spread and packed.

        Raises:
            ModelError: the model or its tokenizer cannot be loaded, two texts have equal tokens, the device does not exist,
                or the model's own logits are others than those of its embeddings.
        """
        self._load(model, config, dtype, device, placement, ZERO_SHOT)
        self._texts = list(texts)
        tokenizer = load_tokenizer(model)
        try:
            encoded = tokenizer(self._texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
            embedded_CD = self._embedded(encoded)
        except (ModelError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            # tokenizers and encoders raise many kinds of errors; the message keeps the reason, the traceback is chained
            raise ModelError(f"{model}: the names of the classes cannot be embedded: {one_line(error)}") from error
        # texts may become equal if they are cut off at the end, or unknown to a tokenizer without a vocabulary
        if len({tuple(ids) for ids in encoded["input_ids"].tolist()}) < len(self._texts):
            raise ModelError(
                f"{model}: its tokenizer gives several classes the same tokens. Shorten the --prompt, or save the tokenizer "
                "with it."
            )
        shortest = min(range(len(self._texts)), key=lambda place: int(encoded["attention_mask"][place].sum()))
        alone_1D = self._embedded(tokenizer(self._texts[shortest : shortest + 1], return_tensors="pt").to(self.device))
        if not _near((embedded_CD[shortest] - alone_1D[0]).norm(), self._dtype):
            raise ModelError(
                f"{model}: {self.name} embeds the text '{self._texts[shortest]}' differently beside longer texts, so its "
                "answer about a class depends on the names of the others. Give another model, such as CLIP."
            )
        self._weight_CD = embedded_CD * scale_of(self._model).to(self.device)
        self._prove(model, encoded, size)

    def _embedded(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """Return the embeddings of texts, float32[C, D], of length 1."""
        with torch.inference_mode():
            pooled_CD = _pooled(self._model.get_text_features(**encoded)).to(self.device)
            return nn.functional.normalize(pooled_CD.float(), dim=-1)

    def _prove(self, model: ModelRef, encoded: Mapping[str, Tensor], size: tuple[int, int]) -> None:
        """Compare the logits of a picture of noise with those that the model's own forward pass gives.

        Raises:
            ModelError: the model gives none, or others, or does not accept images of this size.
        """
        noise_13HW = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
        found_1C = self.logits({"pixel_values": noise_13HW})[:, 0]
        with torch.inference_mode(), size_errors(self.name, noise_13HW):
            output = self._model(**encoded, pixel_values=self._pixels({"pixel_values": noise_13HW}))
        own_1C = getattr(output, "logits_per_image", None)
        if own_1C is None:
            raise ModelError(f"{model}: {self.name} gives no logits of an image and texts. Give a model such as CLIP.")
        scale = scale_of(self._model).to(self.device)
        if own_1C.shape != found_1C.shape or not _near((found_1C - own_1C) / scale, self._dtype):
            raise ModelError(
                f"{model}: the logits_per_image of {self.name} are not the cosines of its embeddings times one factor, so "
                "they are no softmax over classes that is known here. Give a model such as CLIP."
            )

    @property
    def classes(self) -> int:
        return len(self._texts)

    def head(self, vocabulary: int) -> LinearHead:
        return LinearHead(self._weight_CD)

    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        return self.logits_and_hidden(inputs)[0]

    @torch.inference_mode()
    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        with size_errors(self.name, pixels_B3HW := self._pixels(inputs)):
            image_BD = _pooled(self._model.get_image_features(pixel_values=pixels_B3HW)).to(self.device)
        hidden_BD = nn.functional.normalize(image_BD.float(), dim=-1)
        return (hidden_BD @ self._weight_CD.T)[:, None], hidden_BD[:, None]

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        self._refuse_features(names)
        return {}

    def fingerprint(self) -> str:
        """Return a fingerprint of the weights and the texts, since both decide the answers."""
        return self._fingerprint("\0".join(self._texts))


def _pooled(output: Any) -> Tensor:
    """Return the embeddings; some versions of transformers wrap them in an output object. Raises ModelError: there are none."""
    embedded = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
    if not isinstance(embedded, Tensor) or embedded.ndim != 2:
        raise ModelError("The teacher gives no embedding of a text or an image as a whole. Give a model such as CLIP.")
    return embedded


def _near(differences: Tensor, dtype: torch.dtype) -> bool:
    """Return whether differences of cosines, or of vectors of length 1, are no larger than their number format explains."""
    return bool((differences.abs() <= (1e-3 if dtype == torch.float32 else 5e-2)).all())
