"""Narrower copies of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from logitstore.errors import BadInput, ModelError
from logitstore.train.students.prune import Widths, importance_of, narrow_config, narrowed

SHAPE: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 8,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
KINDS = {"llama": LlamaConfig, "qwen 2": Qwen2Config, "qwen 3": Qwen3Config}


def model_of(kind: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(KINDS[kind](**SHAPE | changes), dtype=torch.float64).eval()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    found = []
    for length in (7, 4):
        mask = torch.ones(3, length, dtype=torch.int64)
        mask[1, length // 2 :] = 0
        found.append((torch.randint(60, (3, length)) * mask, mask))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [False, True])
def test_a_copy_as_wide_as_before_says_the_same(kind: str, tied: bool) -> None:
    model = model_of(kind, tie_word_embeddings=tied)
    copy = narrowed(model, importance_of(model, batches()), Widths(hidden_size=24, intermediate_size=20, heads=6))
    tokens = batches()[0][0]
    assert torch.equal(copy(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("kind", KINDS)
def test_neurons_and_heads_that_say_nothing_can_go_without_a_trace(kind: str) -> None:
    """Half the neurons have no input, and every second query head no way out: a copy without them is the same function."""
    model = model_of(kind)
    with torch.no_grad():
        for layer in model.model.layers:
            for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj):
                matrix.weight[::2] = 0
            layer.self_attn.v_proj.weight[8:16] = 0  # the second key-value head, so both its query heads say nothing
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias[8:16] = 0
    importance = importance_of(model, batches())
    copy = narrowed(model, importance, Widths(intermediate_size=10, heads=4, kv_heads=2))
    tokens, mask = batches()[0]
    torch.testing.assert_close(copy(tokens, attention_mask=mask).logits, model(tokens, attention_mask=mask).logits)
    assert copy.model.layers[0].self_attn.k_proj.weight.shape == (16, 24)


def test_importance_is_the_norm_over_samples_of_the_mean_over_tokens() -> None:
    model = model_of("llama")
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    for tokens, mask in batches():
        model(tokens, attention_mask=mask)
    handle.remove()
    expected = torch.zeros(20, dtype=torch.float64)
    for activity, (_, mask) in zip(seen, batches(), strict=True):
        for line, real in zip(activity, mask.bool(), strict=True):
            expected += line[real].abs().mean(0).square()
    torch.testing.assert_close(importance_of(model, batches()).neurons[1], expected)


def test_the_most_important_hidden_channels_are_kept_in_their_order() -> None:
    model = model_of("llama")
    importance = importance_of(model, batches())
    copy = narrowed(model, importance, Widths(hidden_size=12))
    kept = importance.hidden_D.topk(12).indices.sort().values
    assert torch.equal(copy.model.embed_tokens.weight, model.model.embed_tokens.weight[:, kept])
    assert torch.equal(copy.model.layers[1].mlp.down_proj.weight, model.model.layers[1].mlp.down_proj.weight[kept])
    assert copy.config.hidden_size == 12
    assert copy.config.head_dim == 8
    copy(batches()[0][0]).logits.sum().backward()


def test_query_heads_stay_with_their_key_value_head() -> None:
    model = model_of("llama")
    copy = narrowed(model, importance_of(model, batches()), Widths(heads=3, kv_heads=3))
    assert torch.equal(copy.model.layers[0].self_attn.k_proj.weight, model.model.layers[0].self_attn.k_proj.weight)
    for head in range(3):
        own = copy.model.layers[0].self_attn.q_proj.weight[8 * head : 8 * head + 8]
        pair = model.model.layers[0].self_attn.q_proj.weight[16 * head : 16 * head + 16]
        assert torch.equal(own, pair[:8]) or torch.equal(own, pair[8:])


@pytest.mark.parametrize(("kind", "hidden_size"), [("llama", 18), ("qwen 2", 10), ("qwen 3", 10)])
def test_a_copy_that_is_saved_says_the_same_when_it_is_loaded(kind: str, hidden_size: int, tmp_path: Path) -> None:
    model = model_of(kind)
    copy = narrowed(model, importance_of(model, batches()), Widths(hidden_size=hidden_size, heads=3))
    copy.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    weights, loaded = copy.state_dict(), again.state_dict()
    assert weights.keys() == loaded.keys()
    assert all(torch.equal(loaded[name], value) for name, value in weights.items())
    tokens = batches()[0][0]
    torch.testing.assert_close(again(tokens).logits, copy(tokens).logits)


def test_what_the_kind_s_configuration_refuses_is_refused_before_anything_runs() -> None:
    """Llama's takes multiples of its heads only: the model would do, but what is saved of it could not be loaded."""
    with pytest.raises(BadInput, match=r"--prune: .*'hidden_size': 10.* is not a multiple of the number of attention"):
        narrow_config(model_of("llama"), Widths(hidden_size=10))


def test_widths_that_are_not_there_are_refused() -> None:
    model = model_of("llama")
    importance = importance_of(model, batches())
    with pytest.raises(BadInput, match="--hidden-size 30: the model has 24"):
        narrowed(model, importance, Widths(hidden_size=30))
    with pytest.raises(BadInput, match="--heads 5"):
        narrowed(model, importance, Widths(heads=5))


def test_models_of_another_build_are_refused() -> None:
    model = AutoModelForCausalLM.from_config(GPT2Config(vocab_size=60, n_embd=24, n_layer=1, n_head=3))
    with pytest.raises(ModelError, match="gated MLPs"):
        importance_of(model.eval(), batches())
