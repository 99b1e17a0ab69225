"""Models in which samples of one line see each other are told from those that keep them apart by their positions."""

from __future__ import annotations

from contextlib import suppress

import pytest
from transformers import Lfm2Config, Lfm2ForCausalLM

from logitstore.errors import ModelError
from logitstore.models.causal import check_packing
from tests.models.test_causal import classes, tiny
from tests.parts.marks import often

KEPT_APART = {
    "LlamaForCausalLM", "GPT2LMHeadModel", "MixtralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma2ForCausalLM",
    "MistralForCausalLM", "GPTNeoXForCausalLM", "Olmo2ForCausalLM",
}  # fmt: skip
"""Classes that make masks of positions: with windows, experts and positions of all kinds."""

SEEING = {
    "MambaForCausalLM", "RwkvForCausalLM", "BloomForCausalLM", "JambaForCausalLM", "GptOssForCausalLM", "OPTForCausalLM",
    "FalconForCausalLM",
}  # fmt: skip
"""Classes that carry a state, or make masks of their own."""


@pytest.mark.parametrize(
    "name", often(sorted(KEPT_APART), lambda name: name in ("GPT2LMHeadModel", "MixtralForCausalLM"))
)
def test_samples_that_begin_at_position_0_are_apart(name: str) -> None:
    model = tiny(name)
    assert model is not None
    model.train()
    check_packing(model, name)
    assert model.training


@pytest.mark.parametrize("name", often(sorted(SEEING), lambda name: name in ("BloomForCausalLM", "JambaForCausalLM")))
def test_samples_that_see_each_other_are_refused(name: str) -> None:
    model = tiny(name)
    assert model is not None
    with pytest.raises(ModelError, match=f"samples packed into one line see each other in {name}"):
        check_packing(model, name)


def test_a_memory_of_a_few_tokens_in_a_model_of_small_weights_is_found() -> None:
    """Its answer about a packed sample is nearly that about the sample alone."""
    shape = {"vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    config = Lfm2Config(**shape, num_key_value_heads=2, num_hidden_layers=2, layer_types=["conv", "full_attention"])
    with pytest.raises(ModelError, match="see each other in Lfm2ForCausalLM"):
        check_packing(Lfm2ForCausalLM(config), "lfm2")


def test_a_window_of_fewer_tokens_than_a_sample_has_changes_nothing() -> None:
    for name in ("MistralForCausalLM", "Gemma2ForCausalLM"):
        model = tiny(name, sliding_window=5)
        assert model is not None
        check_packing(model, name)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", sorted(classes()))
def test_every_model_is_taken_or_refused_in_a_line(name: str) -> None:
    model = tiny(name)
    if model is None:
        pytest.skip("cannot be made small")
    with suppress(ModelError):
        check_packing(model, name)
