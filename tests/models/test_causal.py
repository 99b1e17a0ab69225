"""Models that look at later tokens, and the positions that models have, over the causal classes of transformers."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    RobertaConfig,
    RwkvConfig,
    XLNetConfig,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from logitstore.errors import ModelError
from logitstore.models.causal import check_causal, check_window, position_limit, refuse_other_heads

SIZES: dict[str, Any] = {
    "vocab_size": 120,
    "max_position_embeddings": 64,
    "n_positions": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "decoder_ffn_dim", "encoder_ffn_dim", "ffn_dim"), 48),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "state_size"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "qk_head_dim", "moe_intermediate_size"), 16),
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "rotary_dim": 4,
    "head_dim": 8,
}


ATTEMPTS: tuple[dict[str, Any], ...] = (
    {},
    {"head_dim": None},
    {"num_hidden_layers": None, "num_layers": None},
    {"num_hidden_layers": 4},
    {"num_experts_per_tok": 1},
    {"num_key_value_heads": None, "v_head_dim": None},
    {"mamba_n_heads": 4, "mamba_d_head": 16},
)
"""Changes of the sizes, of which the first that makes a model is taken; None leaves a size as it is."""


LOOK_AHEAD = {
    "BertLMHeadModel", "BertGenerationDecoder", "BigBirdForCausalLM", "CamembertForCausalLM", "CpmAntForCausalLM",
    "Data2VecTextForCausalLM", "ElectraForCausalLM", "ErnieForCausalLM", "MegatronBertForCausalLM", "ProphetNetForCausalLM",
    "RemBertForCausalLM", "RoCBertForCausalLM", "RobertaForCausalLM", "RobertaPreLayerNormForCausalLM", "RoFormerForCausalLM",
    "XLMRobertaForCausalLM",
    "XLMRobertaXLForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel",
}  # fmt: skip
"""The classes that attend to later tokens by their default configuration."""


ODD = {"XmodForCausalLM": "asks for a language", "ReformerModelWithLMHead": "hashes by chance"}
"""Classes that are refused for another reason."""


FEW = {
    "BertLMHeadModel", "RobertaForCausalLM", "XLMWithLMHeadModel", "XLNetLMHeadModel", "LlamaForCausalLM", "GPT2LMHeadModel",
    "OPTForCausalLM", "MixtralForCausalLM", "MambaForCausalLM", "RwkvForCausalLM", "BloomForCausalLM", "DeepseekV3ForCausalLM",
    "JambaForCausalLM", "Gemma2ForCausalLM",
}  # fmt: skip
"""The classes that the normal run tries."""


def classes() -> dict[str, str]:
    """Every class that transformers takes for a causal language model, with the type of its configuration."""
    found = {}
    for model_type, models in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        if model_type in CONFIG_MAPPING_NAMES:
            found |= dict.fromkeys(models if isinstance(models, tuple) else (models,), model_type)
    return found


def tiny(name: str, attempts: tuple[dict[str, Any], ...] = ATTEMPTS, **more: Any) -> PreTrainedModel | None:
    """A model of the class that can be run, with random weights that have opinions; None if it cannot be made small."""
    config_class: type[PretrainedConfig] = CONFIG_MAPPING[classes()[name]]
    model_class: type[PreTrainedModel] = getattr(transformers, name)
    for attempt in attempts:
        try:
            plain = config_class()
            sizes = {
                plain.attribute_map.get(key, key): value
                for key, value in (SIZES | attempt).items()
                if value is not None and key in {**plain.to_dict(), **dict.fromkeys(plain.attribute_map)}
            }
            config = config_class(**sizes | more)
            with torch.device("meta"):
                if sum(weight.numel() for weight in model_class(config).parameters()) > 4e6:
                    continue
            torch.manual_seed(0)
            model = model_class(config).eval()
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.data.normal_(0, 0.3)
            tokens = torch.arange(3, 15)[None]
            if name not in ODD:
                model(input_ids=tokens, use_cache=False)
        except Exception:
            # configurations refuse sizes with errors of many classes
            continue
        return model
    return None


def verdict(model: PreTrainedModel) -> str:
    """`causal`, `later tokens`, or `odd`."""
    try:
        check_causal(model, "the model")
    except ModelError as error:
        return "later tokens" if "looks at later tokens" in str(error) else "odd"
    return "causal"


def expected(name: str) -> str:
    return "later tokens" if name in LOOK_AHEAD else "odd" if name in ODD else "causal"


@pytest.mark.parametrize("name", sorted(FEW))
def test_a_model_is_causal_or_refused(name: str) -> None:
    model = tiny(name)
    assert model is not None
    assert verdict(model) == expected(name)


@pytest.mark.exhaustive
def test_every_class_of_transformers_is_causal_or_refused() -> None:
    """All classes that can be built tiny; each is what independent knowledge says, and takes as many tokens as is said."""
    wrong, sums = {}, Counter[str]()
    for name in classes():
        model = tiny(name)
        if model is None:
            sums["not built"] += 1
            continue
        found = verdict(model)
        sums[found] += 1
        if found != expected(name):
            wrong[name] = found
        limit = position_limit(model.config)
        if found == "causal" and limit is not None and limit < 1000:
            with torch.inference_mode():
                assert model(input_ids=torch.full((1, limit), 5), use_cache=False).logits.shape[1] == limit, name
    print(dict(sums))
    assert not wrong
    assert sums["causal"] > 120


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["LlamaForCausalLM", "MixtralForCausalLM", "MambaForCausalLM", "BertLMHeadModel"])
def test_rounding_changes_no_verdict(name: str, dtype: torch.dtype) -> None:
    model = tiny(name)
    assert model is not None
    assert verdict(model.to(dtype)) == expected(name)


@pytest.mark.parametrize("scale", [0.02, 0.05])
def test_weights_as_faint_as_when_they_are_drawn_are_enough(scale: float) -> None:
    model = tiny("BertLMHeadModel")
    assert model is not None
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.normal_(0, scale)
    assert verdict(model) == "later tokens"
    assert verdict(model.to(torch.bfloat16)) == "later tokens"


@pytest.mark.parametrize("name", ["BertLMHeadModel", "RobertaForCausalLM", "ElectraForCausalLM"])
def test_a_decoder_of_such_a_class_is_causal(name: str) -> None:
    model = tiny(name, is_decoder=True)
    assert model is not None
    assert verdict(model) == "causal"


def test_a_model_is_left_in_the_mode_that_it_was_in() -> None:
    model = tiny("LlamaForCausalLM")
    assert model is not None
    check_causal(model.train(), "the model")
    assert model.training


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (LlamaConfig(max_position_embeddings=512), 512),
        (LlamaConfig(max_position_embeddings=64, rope_parameters={"rope_type": "linear", "factor": 2.0}), 128),
        (Qwen2Config(max_position_embeddings=64, rope_parameters=YARN), 256),
        (Qwen2Config(max_position_embeddings=256, rope_parameters=YARN), 256),
        (OPTConfig(max_position_embeddings=64), 64),
        (RobertaConfig(max_position_embeddings=66, pad_token_id=1), 64),
        (GPT2Config(n_positions=128), 128),
        (MptConfig(max_seq_len=128), 128),
        (BloomConfig(), None),
        (MambaConfig(), None),
        (RwkvConfig(context_length=32), 32),
        (XLNetConfig(), None),
    ],
    ids=lambda value: value.model_type if isinstance(value, PretrainedConfig) else str(value),
)
def test_windows_are_as_long_as_the_positions_at_most(config: PretrainedConfig, limit: int | None) -> None:
    assert position_limit(config) == limit
    check_window(config, limit or 100_000, "the model")
    if limit is not None:
        with pytest.raises(ModelError, match=f"positions for {limit} tokens. Give --max-length {limit} or less"):
            check_window(config, limit + 1, "the model")


@pytest.mark.parametrize(
    "architecture", ["LlamaForSequenceClassification", "Qwen2ForRewardModel", "GPT2ForTokenClassification"]
)
def test_a_model_whose_output_is_not_over_tokens_is_refused(architecture: str) -> None:
    with pytest.raises(ModelError, match=f"it is a {architecture}, whose output is no distribution over tokens"):
        refuse_other_heads(LlamaConfig(architectures=[architecture]), "the model")


LONG = {"factor": 4.0, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0]}


@pytest.mark.parametrize(
    ("positions", "rope", "is_alike"),
    [
        (64, {"rope_type": "dynamic", "factor": 4.0}, False),
        (256, {"rope_type": "longrope", "original_max_position_embeddings": 64} | LONG, False),
        (256, YARN, True),
    ],
)
def test_windows_whose_answers_depend_on_the_batch_are_refused(
    positions: int, rope: dict[str, Any], is_alike: bool
) -> None:
    """A text of 40 tokens alone, beside one of 200, and beside one that is no longer than the model's first positions."""
    model = tiny("LlamaForCausalLM", max_position_embeddings=positions, rope_parameters=rope | {"rope_theta": 1e4})
    assert model is not None
    tokens = (torch.arange(400) * 7 % 97 + 3).view(2, 200)

    def answers(length: int, beside: int) -> torch.Tensor:
        with torch.inference_mode():
            alone = model(input_ids=tokens[:1, :length], use_cache=False).logits
            batch = torch.zeros(2, beside, dtype=torch.int64)
            batch[0, :length], batch[1] = tokens[0, :length], tokens[1, :beside]
            return (model(input_ids=batch, use_cache=False).logits[0, :length] - alone[0]).abs().max()

    assert (answers(40, 200) < 1e-3) == is_alike
    assert answers(40, 64) < 1e-3
    check_window(model.config, 64, "the model")
    if is_alike:
        check_window(model.config, 256, "the model")
    else:
        with pytest.raises(ModelError, match="positions for 64 tokens; beyond, its positions follow from the longest"):
            check_window(model.config, 65, "the model")


@pytest.mark.parametrize(
    ("dtype", "advice"), [(torch.float32, "Check its weights"), (torch.float16, "overflow float16")]
)
def test_a_model_without_a_number_is_refused(dtype: torch.dtype, advice: str) -> None:
    model: Any = tiny("LlamaForCausalLM")
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match=f"^the model: none of its logits is a number. .*{advice}"):
        check_causal(model.to(dtype), "the model")
