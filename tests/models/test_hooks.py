"""Recording features of a model changes nothing, and gives what the model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from logitstore.errors import ModelError
from logitstore.models.hooks import recording
from tests.parts.taps import ALL, features_of


@pytest.fixture(scope="module")
def model(teacher: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32, attn_implementation="sdpa").eval()


def test_recording_changes_nothing_and_leaves_nothing_behind(model: Any) -> None:
    tokens_BT = torch.arange(12).view(2, 6)
    before = dict(ALL_ATTENTION_FUNCTIONS)
    usual = model(tokens_BT).logits
    with recording(model, ALL) as seen:
        recorded = model(tokens_BT).logits
    assert sorted(seen) == sorted(ALL)
    assert torch.equal(usual, recorded)
    assert dict(ALL_ATTENTION_FUNCTIONS) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_gradients_flow_through_what_is_recorded(model: Any) -> None:
    with recording(model, ["query-1", "hidden-1", "final"]) as seen:
        model(torch.arange(6)[None])
    first, second = model.model.layers[0], model.model.layers[1]
    for name, reached, not_reached in (
        ("query-1", first.self_attn.q_proj.weight, first.self_attn.k_proj.weight),
        ("hidden-1", first.mlp.down_proj.weight, second.mlp.down_proj.weight),
        ("final", second.mlp.down_proj.weight, model.lm_head.weight),
    ):
        found = torch.autograd.grad(seen[name].sum(), [reached, not_reached], allow_unused=True, retain_graph=True)
        assert found[0] is not None
        assert found[0].abs().sum() > 0
        assert found[1] is None


def test_the_final_state_is_recorded_whole_where_only_the_last_logits_are_made(model: Any) -> None:
    tokens_BT = torch.arange(6)[None]
    with torch.inference_mode(), recording(model, ["final"]) as seen:
        few = model(tokens_BT, logits_to_keep=1).logits
    assert few.shape[1] == 1
    assert torch.equal(seen["final"], model(tokens_BT, output_hidden_states=True).hidden_states[-1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_queries_are_recorded_whichever_attention_a_model_uses(attention: str, teacher: Path) -> None:
    chosen: Any = AutoModelForCausalLM.from_pretrained(teacher, attn_implementation=attention).eval()
    tokens_T = torch.arange(9)
    with torch.inference_mode(), recording(chosen, ["query-2"]) as seen:
        chosen(tokens_T[None])
    assert torch.allclose(seen["query-2"][0], features_of(teacher, tokens_T)["query-2"], atol=1e-5)


TINY = {"vocab_size": 64, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "num_attention_heads": 4}
TINY |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 16},
    "phi3": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_hidden_states_of_other_models_are_those_that_transformers_gives(kind: str) -> None:
    """And the final one is what the output layer takes, also where the decoder is not the base model (OPT)."""
    other: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY | KINDS[kind])).eval()
    inputs = {"input_ids": torch.arange(1, 13).view(2, 6), "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    states = other(**inputs, output_hidden_states=True).hidden_states
    names = ["hidden-0", "hidden-1", "hidden-2", "final"]
    with recording(other, [*names, "query-1", "key-3"]) as seen:
        other(**inputs)
    for name, state_BTD in zip(names, states, strict=True):
        assert torch.equal(seen[name], state_BTD), name
    assert seen["query-1"].shape[:2] == seen["key-3"].shape[:2] == (2, 6)


def test_attention_that_cannot_be_recorded_is_told() -> None:
    other: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("bloom", **TINY, n_layer=1))
    with pytest.raises(ModelError, match="BloomForCausalLM: query-1 cannot be recorded"), recording(other, ["query-1"]):
        other(torch.arange(6)[None])


def test_a_feature_that_a_pass_does_not_show_is_an_error(model: Any) -> None:
    with pytest.raises(ModelError, match="no hidden-2"), recording(model, ["hidden-2"]):
        pass
    with pytest.raises(ModelError, match="value-3 cannot be recorded"), recording(model, ["final", "value-3"]):
        model(torch.arange(6)[None])
