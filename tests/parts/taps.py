"""Dumps with taps, and the features that a model computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache
from tests.parts.texts import plan_for

ALL = ["hidden-0", "hidden-1", "final", "query-2", "key-2", "value-2"]


def small_taps_plan(teacher: Path, texts: Path, out: Path, **changes: Any) -> DumpSettings:
    """A dump of three small parts, with windows that overlap."""
    return plan_for(teacher, texts, out, **{"limit": 6, "samples_per_part": 9} | changes)


@torch.inference_mode()
def features_of(teacher: Path, tokens_T: Any) -> dict[str, Tensor]:
    """What the teacher's own modules give for one sample: hidden states as transformers reports them, the second layer's
    projections turned by hand; float32[T, D] each."""
    model: Any = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    tokens_BT = torch.from_numpy(np.asarray(tokens_T, np.int64))[None]
    states = model(tokens_BT, output_hidden_states=True).hidden_states
    attention, before_BTD = model.model.layers[1].self_attn, model.model.layers[1].input_layernorm(states[1])
    split = (1, len(tokens_T), -1, attention.head_dim)
    query, key, value = (
        linear(before_BTD).view(split).transpose(1, 2)
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    turns = model.model.rotary_emb(before_BTD, torch.arange(len(tokens_T))[None])
    query, key = apply_rotary_pos_emb(query, key, *turns)
    flat = {
        f"{name}-2": heads.transpose(1, 2).flatten(2)[0]
        for name, heads in (("query", query), ("key", key), ("value", value))
    }
    return {"hidden-0": states[0][0], "hidden-1": states[1][0], "final": states[-1][0]} | flat


def decoded(cache: Cache, name: str, index: int) -> Any:
    """float32[N, D]: the rows of one sample of a tap."""
    part, number = cache.locate(index)
    tap = cache.taps[name]
    stored = {field: np.array(array[part.span(number)]) for field, array in tap.part(part.number).items()}
    return tap.codec.decode(stored)
