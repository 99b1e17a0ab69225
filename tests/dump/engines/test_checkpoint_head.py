"""The head that is read from a checkpoint alone, against the logits of the whole model in float64; and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from logitstore.core.types import ModelRef
from logitstore.dump.engines.in_process import checkpoint_head as heads
from logitstore.dump.engines.in_process.checkpoint import INDEX, WHOLE, Checkpoint
from logitstore.dump.engines.in_process.checkpoint_head import checkpoint_head
from logitstore.errors import ModelError
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config

ROWS = 104
SMALL: dict[str, Any] = {
    "vocab_size": ROWS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 5.0},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 8.0},
    "phi": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2},
    "gpt_neox": {"tie_word_embeddings": False},
    "starcoder2": {},
}
"""Kinds of models: with and without a weight of their own, with a cap, a factor, a divisor, a bias."""


def model_of(kind: str) -> Any:
    """A small random model whose logits are large enough for a cap to bend them."""
    given = SMALL | KINDS[kind]
    if kind == "gpt2":
        given = {
            name: value for name, value in given.items() if name in ("vocab_size", *KINDS[kind]) or "token" in name
        }
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).eval()
    layer = model.get_output_embeddings()
    with torch.no_grad():
        layer.weight.normal_(std=2.0)
        if layer.bias is not None:
            layer.bias.normal_()
    return model


@pytest.fixture(params=KINDS)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Any]:
    model = model_of(str(request.param))
    model.save_pretrained(tmp_path)
    return tmp_path, model


def read(folder: Path, dtype: torch.dtype = torch.float32) -> LinearHead:
    model = ModelRef(name=str(folder))
    return checkpoint_head(model, load_config(model), dtype)


def in_float64(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return final hidden states [T, D] and logits [T, V] of the whole model, in float64."""
    tokens_BT = torch.arange(1, 25)[None]
    wide = model.double()
    with torch.no_grad():
        return wide.base_model(input_ids=tokens_BT).last_hidden_state[0], wide(input_ids=tokens_BT).logits[0]


def test_hidden_states_times_the_head_of_the_file_are_the_logits(saved: tuple[Path, Any]) -> None:
    folder, model = saved
    head = read(folder)
    hidden_TD, logits_TV = in_float64(model)
    assert head.vocabulary == ROWS
    assert logits_TV.abs().max() > 2
    torch.testing.assert_close(head.logits(hidden_TD.float()).double(), logits_TV, rtol=0, atol=2e-5)


def test_the_head_is_found_in_one_of_several_files_and_the_others_are_not_read(tmp_path: Path) -> None:
    model = model_of("llama")
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    files = json.loads((tmp_path / INDEX).read_text())["weight_map"]
    for name in set(files.values()) - {files["lm_head.weight"]}:
        (tmp_path / name).unlink()
    assert torch.equal(read(tmp_path).weight_VD, model.lm_head.weight)


def test_weights_are_rounded_to_what_the_engine_computes_in(tmp_path: Path) -> None:
    model = model_of("phi")
    model.save_pretrained(tmp_path)
    head = read(tmp_path, torch.bfloat16)
    assert head.bias_V is not None
    assert torch.equal(head.weight_VD, model.lm_head.weight.bfloat16())
    assert torch.equal(head.bias_V, model.lm_head.bias.bfloat16())


def changed(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the weights in a file."""
    weights = load_file(folder / WHOLE)
    change(weights)
    save_file(weights, folder / WHOLE, metadata={"format": "pt"})


def as_gpt_neox_of_old(weights: dict[str, torch.Tensor]) -> None:
    names = [name for name in weights if name.endswith(("lm_head.weight", "embed_out.weight"))]
    weights["embed_out.weight"] = weights.pop(names[0])


def test_a_head_that_files_call_otherwise_is_known_by_its_shape(tmp_path: Path) -> None:
    model = model_of("gpt_neox")
    model.save_pretrained(tmp_path)
    changed(tmp_path, as_gpt_neox_of_old)
    assert torch.equal(read(tmp_path).weight_VD, model.get_output_embeddings().weight)


def test_names_without_the_first_part_are_found(tmp_path: Path) -> None:
    model = model_of("gpt2")
    model.save_pretrained(tmp_path)

    def short(weights: dict[str, torch.Tensor]) -> None:
        for name in list(weights):
            weights[name.removeprefix("transformer.")] = weights.pop(name)

    changed(tmp_path, short)
    assert "wte.weight" in Checkpoint.of(ModelRef(name=str(tmp_path))).files
    assert torch.equal(read(tmp_path).weight_VD, model.lm_head.weight)


def packed(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight_packed"] = weights.pop("lm_head.weight")[:, ::8].to(torch.int32)


def in_eight_bits(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"].to(torch.float8_e4m3fn)


def cut(weights: dict[str, torch.Tensor]) -> None:
    weights["lm_head.weight"] = weights["lm_head.weight"][:-1].clone()


def without(weights: dict[str, torch.Tensor]) -> None:
    del weights["lm_head.weight"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (packed, "its file has no lm_head.weight, only packed weights of lm_head, so"),
        (in_eight_bits, "lm_head.weight is packed (float8_e4m3fn), so"),
        (cut, "lm_head.weight in shape (103, 32), its configuration asks for (104, 32)"),
        (without, "its file has no lm_head.weight, so"),
    ],
)
def test_a_head_that_cannot_be_used_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ModelError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tied_head_with_values_of_its_own_is_refused(tmp_path: Path) -> None:
    model_of("qwen3").save_pretrained(tmp_path)
    same = load_file(tmp_path / WHOLE)["model.embed_tokens.weight"]
    changed(tmp_path, lambda weights: weights.update({"lm_head.weight": same.clone()}))
    assert torch.equal(read(tmp_path).weight_VD, same)
    changed(tmp_path, lambda weights: weights.update({"lm_head.weight": same + 1}))
    with pytest.raises(
        ModelError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight, but its file has other values"
    ):
        read(tmp_path)


def test_files_that_are_not_safetensors_are_refused(tmp_path: Path) -> None:
    model = model_of("llama")
    model.save_pretrained(tmp_path)
    (tmp_path / WHOLE).write_bytes(b"\xff" * 100)
    with pytest.raises(ModelError, match="cannot be read as safetensors"):
        read(tmp_path)
    (tmp_path / WHOLE).unlink()
    with pytest.raises(ModelError, match=r"it has no model\.safetensors, and its output layer is read from"):
        read(tmp_path)
    (tmp_path / INDEX).write_text('{"weight_map": []}')
    with pytest.raises(ModelError, match="does not say where its weights are"):
        read(tmp_path)
    with pytest.raises(ModelError, match="vLLM reads no GGUF"):
        checkpoint_head(ModelRef(name="a", gguf="b.gguf"), model.config, torch.float32)


@pytest.mark.parametrize("claimed", [(1.0, 0.0), (2.0, 4.0), (1.0, 6.0)])
def test_a_formula_that_is_not_the_models_is_refused(
    claimed: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a configuration seems to say is compared with what a model of its class does."""
    model_of("gemma2").save_pretrained(tmp_path)
    monkeypatch.setattr(heads, "scaling_of", lambda config: claimed)
    with pytest.raises(ModelError, match="its logits differ from head times hidden state"):
        read(tmp_path)


def test_a_model_that_no_small_one_can_be_made_of_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_of("llama").save_pretrained(tmp_path)
    monkeypatch.setattr(heads, "LARGEST_SMALL", 10)
    with pytest.raises(ModelError, match="no small model of the kind llama shows how its hidden states become logits"):
        read(tmp_path)


def test_a_proof_leaves_the_random_numbers_of_others_alone(tmp_path: Path) -> None:
    model_of("llama").save_pretrained(tmp_path)
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    read(tmp_path)
    assert torch.equal(torch.rand(3), before)


def test_the_fingerprint_is_the_weights_and_not_how_they_are_cut_into_files(tmp_path: Path) -> None:
    model = model_of("llama")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "several", max_shard_size="20KB")
    one, several = (Checkpoint.of(ModelRef(name=str(tmp_path / name))).fingerprint() for name in ("one", "several"))
    assert one == several
    changed(tmp_path / "one", lambda weights: weights["model.norm.weight"].add_(1e-3))
    assert Checkpoint.of(ModelRef(name=str(tmp_path / "one"))).fingerprint() != one
