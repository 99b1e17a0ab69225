"""Layers of hybrid and state-space models are copied as they are, or refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from logitstore.errors import LogitstoreError
from logitstore.models.shape import layer_count
from logitstore.train.students.build import keep_layers

TINY: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 4,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MORE: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 4, "attention_types": [[["global", "local"], 2]]},
    "mamba": {"state_size": 4, "time_step_rank": 4},
    "falcon_mamba": {"state_size": 4, "time_step_rank": 4},
    "mamba2": {"state_size": 4, "num_heads": 4, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "gemma2": {"layer_types": ["sliding_attention", "full_attention"] * 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "num_experts": 2,
        "moe_intermediate_size": 8,
    },
    "bart": {
        "d_model": 16,
        "encoder_layers": 4,
        "decoder_layers": 4,
        "decoder_ffn_dim": 24,
        "decoder_attention_heads": 2,
    },
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
}
ALWAYS = ["llama", "mamba", "mamba2", "gpt_neo", "gemma2", "smollm3", "lfm2", "gpt2", "opt"]
TYPES = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def tiny(model_type: str) -> Any:
    """Return a model of four small layers; skip what cannot be made so small."""
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type, **TINY | MORE.get(model_type, {}))
        config.get_text_config().is_decoder = True
        torch.manual_seed(0)
        with torch.device("meta"):
            size = sum(weight.numel() for weight in AutoModelForCausalLM.from_config(config).parameters())
        if size > 20e6 or layer_count(config) != 4:
            pytest.skip(f"{size:,} weights, {layer_count(config)} layers")
        return AutoModelForCausalLM.from_config(config).eval()
    except Exception as error:
        pytest.skip(f"cannot be made: {error}")


def check(model_type: str, layers: list[int], tmp_path: Path) -> None:
    """Copy some layers; the copy, saved and loaded, computes what its model does, and each layer what it did."""
    model = tiny(model_type)
    try:
        smaller = keep_layers(model, layers)
    except LogitstoreError as refused:
        if model_type in ALWAYS or "\n" in str(refused):
            pytest.fail(str(refused))
        pytest.xfail(f"refused: {refused}")
    assert layer_count(smaller.config) == len(layers)
    smaller.eval().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(3, 11)[None]
    try:
        expected = smaller(input_ids=tokens, use_cache=False).logits
    except Exception as error:
        pytest.skip(f"cannot run: {error}")
    torch.testing.assert_close(loaded(input_ids=tokens, use_cache=False).logits, expected)
    if layers == [0, 1, 2, 3]:
        torch.testing.assert_close(model(input_ids=tokens, use_cache=False).logits, expected)
    for name in ("layer_types", "layers_block_type", "attention_layers"):
        text, old = smaller.config.get_text_config(), model.config.get_text_config()
        if isinstance(kinds := getattr(old, name, None), list):
            assert list(getattr(text, name)) == [kinds[layer] for layer in layers]


@pytest.mark.parametrize("layers", [[0, 2], [1, 3], [3], [0, 1, 2, 3]])
@pytest.mark.parametrize("model_type", ALWAYS)
def test_layers_are_copied_with_what_the_configuration_says_of_them(
    model_type: str, layers: list[int], tmp_path: Path
) -> None:
    check(model_type, layers, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [[0, 1], [1, 3], [0, 1, 2, 3]])
@pytest.mark.parametrize("model_type", [name for name in TYPES if name not in ALWAYS])
def test_layers_of_every_kind_of_model_are_copied_or_refused(
    model_type: str, layers: list[int], tmp_path: Path
) -> None:
    check(model_type, layers, tmp_path)
