"""Features of encoders of texts and images are recorded at every place, and which of them look both ways is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageClassification, AutoModelForSequenceClassification

from logitstore.models.hooks import recording
from logitstore.models.shape import is_causal

TEXTS: dict[str, dict[str, Any]] = {
    "bert": {},
    "distilbert": {"dim": 16, "n_heads": 2, "hidden_dim": 24, "n_layers": 2},
    "roberta": {"pad_token_id": 1},
    "modernbert": {"pad_token_id": 0, "global_attn_every_n_layers": 2},
    "electra": {"embedding_size": 16},
    "gpt2": {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
}
IMAGES: dict[str, dict[str, Any]] = {"vit": {}, "deit": {}}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def made(kind: str) -> tuple[Any, dict[str, torch.Tensor], tuple[int, int, int]]:
    torch.manual_seed(0)
    if kind in TEXTS:
        shape = (
            SHAPE | {"vocab_size": 40, "max_position_embeddings": 32} if kind != "distilbert" else {"vocab_size": 40}
        )
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **shape | TEXTS[kind]))
        tokens_BT = torch.randint(2, 40, (2, 5))
        return model.eval(), {"input_ids": tokens_BT, "attention_mask": torch.ones_like(tokens_BT)}, (2, 5, 16)
    named = {"vit": "ViTForImageClassification", "deit": "DeiTForImageClassification"}[kind]
    config = AutoConfig.for_model(kind, **SHAPE, image_size=8, patch_size=4, architectures=[named])
    model = AutoModelForImageClassification.from_config(config)
    return model.eval(), {"pixel_values": torch.randn(2, 3, 8, 8)}, (2, 6 if kind == "deit" else 5, 16)


@pytest.mark.parametrize("kind", [*TEXTS, *IMAGES])
@torch.inference_mode()
def test_every_place_is_recorded(kind: str) -> None:
    model, inputs, shape = made(kind)
    names = ["hidden-0", "hidden-1", "hidden-2", "query-1", "key-2", "value-2"]
    with recording(model, names) as seen:
        said = model(**inputs, output_hidden_states=True).hidden_states
    assert all(seen[name].shape == shape for name in names)
    normed = kind in ("modernbert", "gpt2")  # whose last state is told after a norm
    for number, expected in enumerate(said[:2] if normed else said):
        assert torch.equal(seen[f"hidden-{number}"], expected), number


def test_decoders_look_back_and_encoders_look_both_ways() -> None:
    decoders = {kind for kind in (*TEXTS, *IMAGES, "llama", "qwen3") if is_causal(AutoConfig.for_model(kind))}
    assert decoders == {"gpt2", "llama", "qwen3"}
