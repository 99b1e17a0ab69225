"""Students whose hidden states cannot be had, or not where others give them, learn from their logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, OPTConfig, PreTrainedTokenizerFast, TrOCRConfig, XGLMConfig

import logitstore
from logitstore.train.train import train
from tests.parts.marks import often
from tests.parts.texts import VOCABULARY
from tests.parts.training import curve, plan_of

SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "max_position_embeddings": 1024}
STUDENTS = {
    "opt": OPTConfig(
        **SMALL, hidden_size=16, word_embed_proj_dim=16, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2
    ),
    "opt, projected": OPTConfig(
        **SMALL, hidden_size=16, word_embed_proj_dim=8, ffn_dim=24, num_hidden_layers=1, num_attention_heads=2
    ),
    "bart": BartConfig(**SMALL, d_model=16, decoder_layers=1, decoder_ffn_dim=24, decoder_attention_heads=2),
    "trocr": TrOCRConfig(**SMALL, d_model=16, decoder_layers=1, decoder_ffn_dim=24, decoder_attention_heads=2),
    "xglm": XGLMConfig(**SMALL, d_model=16, num_layers=1, ffn_dim=24, attention_heads=2),
}


@pytest.mark.parametrize("name", often(STUDENTS, lambda name: name in ("opt, projected", "bart")))
def test_a_student_whose_base_model_is_bypassed_trains(
    name: str, cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    config = STUDENTS[name]
    config.is_decoder, config.is_encoder_decoder = True, False
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "student")
    tokenizer.save_pretrained(tmp_path / "student")
    train(plan_of(cache, tmp_path / "out", student=str(tmp_path / "student"), max_steps=6, holdout=0))
    losses = list(curve(tmp_path / "out").values())
    assert len(losses) == 6
    assert all(loss < losses[0] + 1 for loss in losses)
    before, after = (AutoModelForCausalLM.from_pretrained(tmp_path / each).state_dict() for each in ("student", "out"))
    assert all(
        not torch.equal(before[each], after[each]) for each in before if each.endswith("self_attn.v_proj.weight")
    )
