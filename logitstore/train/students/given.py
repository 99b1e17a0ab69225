"""A student that a caller in Python has as a model."""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.models.adapter import has_adapter


def given_student(model: Any, tokenizer: Any = None, *, gets_adapter: bool = False) -> ModelRef:
    """Return the place of a model that is at hand.

    Args:
        model: a `PreTrainedModel`, or a `PeftModel` with one LoRA adapter.
        tokenizer: of the model, if it is given.
        gets_adapter: True if an adapter will be trained in place of its own weights.

    Raises:
        BadInput: it is something else, has adapters of another kind, or weights that cannot be trained as they are.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not isinstance(inner, PreTrainedModel):
        raise BadInput(
            f"student: a {type(model).__name__} cannot be trained. Give a folder, a hub name, a PreTrainedModel of "
            "transformers, or a PeftModel."
        )
    kinds = [
        str(getattr(each, "peft_type", "")).rpartition(".")[2] for each in getattr(model, "peft_config", {}).values()
    ]
    if kinds and (kinds != ["LORA"] or not has_adapter(inner)):
        raise BadInput(
            f"student: its adapters are {', '.join(kinds)}; known is one of the kind LORA. Merge the others."
        )
    name = inner.name_or_path or type(inner).__name__
    if getattr(inner, "is_quantized", False):
        raise BadInput(
            f"student: {name}: its weights are packed in few bits, which is not known here. Load it without that."
        )
    if len(set((getattr(inner, "hf_device_map", None) or {}).values())) > 1:
        raise BadInput(f"student: {name}: it lies on several devices. Load it onto one, without device_map.")
    for part, weight in inner.named_parameters():
        if weight.is_meta:
            raise BadInput(f"student: {name}: its weight {part} has no values. Load it onto a device.")
        if weight.requires_grad and not gets_adapter and weight.dtype != torch.float32:
            raise BadInput(
                f"student: {name}: its weight {part} is {str(weight.dtype).removeprefix('torch.')}, and is trained in float32. "
                "Load it with dtype=torch.float32; `precision` says in what it computes."
            )
    return ModelRef(name=name, loaded=inner, tokenizer=tokenizer, called=name)
