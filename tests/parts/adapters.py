"""Adapters made by peft itself, and what is compared of trained ones."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

ALL = "r=4,alpha=8,targets=all-linear"


def plain(student: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)


def with_peft(student: Path, **changes: Any) -> Any:
    """A model as peft wraps it, with an adapter whose products are not 0."""
    torch.manual_seed(3)
    usual: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "task_type": "CAUSAL_LM",
        "init_lora_weights": False,
    }
    return peft.get_peft_model(plain(student), peft.LoraConfig(**usual | changes))


def saved_adapter(student: Path, folder: Path, **changes: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the weights of output layers, which are saved too
        with_peft(student, **changes).save_pretrained(folder)
    return folder


def weights_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def peft_logits(folder: Path, tokens_BT: Tensor) -> Tensor:
    """The logits of a saved adapter, as peft alone loads it."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", UserWarning)  # about weights that are tied
        model = peft.AutoPeftModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        logits: Tensor = model(input_ids=tokens_BT).logits
    return logits


def plain_logits(folder: Path, tokens_BT: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = plain(folder).eval()(input_ids=tokens_BT).logits
    return logits
