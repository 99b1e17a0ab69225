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
from logitstore.models.head import LinearHead
from logitstore.models.load import DTYPES, ZERO_SHOT, load_tokenizer, load_weights, pick_device
from logitstore.models.shape import size_errors


class ZeroShotTeacher(ImageTeacher):
    """CLIP or a similar model: embeddings of texts that name the classes are the output layer (Radford et al. 2021, 3.1)."""

    gives: ClassVar[Gives] = frozenset({LOGITS, HIDDEN})

    def __init__(
        self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str, texts: Sequence[str]
    ) -> None:
        """Load the weights and embed one text for each class.

        Raises:
            ModelError: the model or its tokenizer cannot be loaded, two texts have equal tokens, or the device does not exist.
        """
        self.device = pick_device(device)
        self._dtype = DTYPES[dtype]
        self._model = load_weights(model, config, self._dtype, ZERO_SHOT).to(self.device).eval()
        self._texts = list(texts)
        try:
            tokenizer = load_tokenizer(model)
            encoded = tokenizer(self._texts, padding=True, truncation=True, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                embedded_CD = _pooled(self._model.get_text_features(**encoded))
        except Exception as error:
            # tokenizers and encoders raise many kinds of errors; the message keeps the reason, the traceback is chained
            raise ModelError(f"{model}: the names of the classes cannot be embedded: {one_line(error)}") from error
        # texts may become equal if they are cut off at the end, or unknown to a tokenizer without a vocabulary
        if len({tuple(ids) for ids in encoded["input_ids"].tolist()}) < len(self._texts):
            raise ModelError(
                f"{model}: its tokenizer gives several classes the same tokens. Shorten the --prompt, or save the tokenizer "
                "with it."
            )
        scale = self._model.logit_scale.detach().float().exp()
        self._weight_CD = nn.functional.normalize(embedded_CD.float(), dim=-1) * scale

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
            image_BD = _pooled(self._model.get_image_features(pixel_values=pixels_B3HW))
        hidden_BD = nn.functional.normalize(image_BD.float(), dim=-1)
        return (hidden_BD @ self._weight_CD.T)[:, None], hidden_BD[:, None]

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        self._refuse_features(names)
        return {}

    def fingerprint(self) -> str:
        """Return a fingerprint of the weights and the texts, since both decide the answers."""
        return self._fingerprint("\0".join(self._texts))


def _pooled(output: Any) -> Tensor:
    """Return the embeddings; some versions of transformers wrap them in an output object."""
    embedded: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return embedded
