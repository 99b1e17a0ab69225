"""The head of a model: its logits, and heads that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM as Auto
from transformers import CohereConfig, Gemma2Config, GraniteConfig, LlamaConfig, LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.errors import ModelError
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config

TINY: dict[str, Any] = {
    "vocab_size": 70, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5, "tie_word_embeddings": False,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
CONFIGS = [
    LlamaConfig(**TINY),
    Gemma2Config(**TINY | {"final_logit_softcapping": 3.0}),
    CohereConfig(**TINY | {"logit_scale": 0.25}),
    GraniteConfig(**TINY | {"logits_scaling": 6.0}),
]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.model_type)
def test_the_head_gives_the_logits_of_the_model(config: Any, dtype: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    Auto.from_config(config).save_pretrained(tmp_path)
    ref = ModelRef.parse(str(tmp_path))
    teacher = CausalTeacher(ref, load_config(ref), dtype, "cpu")
    logits, hidden = teacher.logits_and_hidden(
        {"input_ids": torch.randint(0, 70, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.int64)}
    )
    head = teacher.head(64).matching(teacher.name, hidden.flatten(0, 1), logits.flatten(0, 1))
    found, own = head.logits(hidden.flatten(0, 1)), logits.flatten(0, 1)[:, :64].float()
    tolerance = {"float32": 1e-5, "bfloat16": 2**-6}[dtype]
    assert (found - own).abs().max() <= tolerance * own.abs().max()


class Odd(LlamaForCausalLM):
    """A real model that bends its logits in a way of its own."""

    def forward(self, *args: Any, **options: Any) -> CausalLMOutputWithPast:
        output: CausalLMOutputWithPast = super().forward(*args, **options)
        assert output.logits is not None
        output.logits = output.logits + 0.01 * output.logits.sin()
        return output


def test_a_head_that_does_something_unknown_is_refused_by_name() -> None:
    torch.manual_seed(0)
    model = Odd(CONFIGS[0]).eval()
    seen: list[Tensor] = []
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        logits = model(torch.randint(0, 70, (2, 9))).logits
    with pytest.raises(ModelError, match="Odd: its logits differ"):
        LinearHead.of(model, model.config, 64).matching("Odd", seen[0].flatten(0, 1), logits.flatten(0, 1))
    model.set_output_embeddings(torch.nn.Bilinear(1, 1, 1))
    with pytest.raises(ModelError, match="Odd: its output layer is Bilinear"):
        LinearHead.of(model, model.config, 64)
