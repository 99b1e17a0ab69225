"""A causal language model as the teacher: any model that transformers loads, from a folder, the hub or a GGUF file.

Axes: B sequences, T tokens, D channels, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PretrainedConfig

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.model import ModelTeacher
from logitstore.dump.teachers.source import TeacherSource
from logitstore.errors import ModelError
from logitstore.format.needs import OF_A_MODEL, Gives
from logitstore.format.tap_names import FINAL
from logitstore.models.causal import check_causal, check_packing, refuse_other_heads
from logitstore.models.head import LinearHead
from logitstore.models.hooks import taken_by
from logitstore.models.load import DTYPES, describe, load_config, load_tokenizer, load_weights, pick_device
from logitstore.models.placing.placement import WHOLE, Placement, refuse_impossible
from logitstore.models.shape import head_rows
from logitstore.targets.rows import sent


class CausalTeacher(ModelTeacher):
    """A loaded language model."""

    gives: ClassVar[Gives] = OF_A_MODEL

    def __init__(
        self, model: ModelRef, config: PretrainedConfig, dtype: str, device: str, placement: Placement = WHOLE
    ) -> None:
        """Load the weights with transformers.

        Raises:
            ModelError: the model cannot be loaded, or looks at later tokens, or the device does not exist.
        """
        self._config = config
        self._hold(load_weights(model, config, DTYPES[dtype], placement=placement, device=pick_device(device)))
        check_causal(self._model, model)

    def head(self, vocabulary: int) -> LinearHead:
        return LinearHead.of(self._model, self._config, vocabulary)

    @torch.inference_mode()
    def logits(self, inputs: Mapping[str, Tensor], **options: Any) -> Tensor:
        """Return raw logits [B, T, V'] of `input_ids` and `attention_mask`, int64[B, T], padded on the right; see `Teacher`.

        Of packed lines, which have `position_ids`, flash attention takes one at a time: there all become one, [1, B * T, V'].
        """
        moved = {name: sent(value, self.device) for name, value in inputs.items()}
        if "position_ids" in moved and self._takes_one_line():
            moved = {name: value.reshape(1, -1) for name, value in moved.items()}
        output: Tensor = self._model(**moved, use_cache=False, **options).logits
        return output

    def _takes_one_line(self) -> bool:
        return "flash" in str(getattr(self._model.config, "_attn_implementation", ""))

    def check_packed(self) -> None:
        check_packing(self._model, self.name, self.logits)

    def logits_and_hidden(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        output_layer: Any = self._model.get_output_embeddings()
        with taken_by(output_layer) as seen:
            logits_BTV = self.logits(inputs)
        return logits_BTV, seen[-1]

    def features(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
        """The features named; of the logits only the last position's are made. See `Teacher`."""
        keep: dict[str, Any] = {}
        if "logits_to_keep" in inspect.signature(self._model.forward).parameters:
            keep = {"logits_to_keep": 1}
        with self.recording(names) as seen:
            self.logits(inputs, **keep)
        return seen

    def widths(self, names: Sequence[str]) -> dict[str, int]:
        """Return D of the named features, by running the model on two tokens; see `Teacher`."""
        tokens_BT = torch.zeros(1, 2, dtype=torch.int64)
        with self.recording([*names, FINAL]) as seen:
            _, taken_BTD = self.logits_and_hidden(
                {"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT)}
            )
        if FINAL in names and not torch.equal(seen[FINAL].to(taken_BTD.device), taken_BTD):
            raise ModelError(f"{self.name}: its output layer does not take its final hidden states.")
        return {name: int(seen[name].shape[-1]) for name in names}


def source(name: str, *, trust_remote_code: bool = False, placement: Placement = WHOLE) -> TeacherSource:
    """Return what is known of a model before its weights are loaded.

    Args:
        name: a folder, a hub name, or folder::file.gguf.
        trust_remote_code: run the code that comes with it.
        placement: how it will be loaded.

    Raises:
        ModelError: there is no such model, or its output is not over tokens.
    """
    model = ModelRef.parse(name, trust_remote_code=trust_remote_code)
    config = load_config(model)
    architecture, plain = describe(config)
    if "ForImageClassification" in architecture:
        raise ModelError(
            f"{model}: it classifies images. Add --task image-classification to dump what it says of them."
        )
    refuse_other_heads(config, model)
    refuse_impossible(placement, config, model, gguf=model.gguf is not None)
    return TeacherSource(
        name=str(model),
        gives=CausalTeacher.gives,
        tokenizer=partial(load_tokenizer, model),
        vocabulary=head_rows(config),
        width=getattr(config.get_text_config(), "hidden_size", None),
        architecture=architecture,
        config=plain,
        revision=getattr(config, "_commit_hash", None),
        pretrained=config,
        load=partial(CausalTeacher, model, config, placement=placement),
    )
