"""Fresh, copied and pruned students."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MambaConfig,
    MambaForCausalLM,
)

import logitstore
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput, CacheMismatch, ModelError
from logitstore.models.causal import check_packing
from logitstore.train.students.build import copied, fresh, parse_layers
from logitstore.train.train import train
from tests.parts.texts import VOCABULARY, save_model
from tests.parts.training import plan_of


def test_models_that_mix_packed_samples_are_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    check_packing(AutoModelForCausalLM.from_pretrained(small_student), "the student")
    mamba = MambaForCausalLM(MambaConfig(vocab_size=VOCABULARY, hidden_size=16, state_size=4, num_hidden_layers=2))
    with pytest.raises(ModelError, match="see each other"):
        check_packing(mamba, "mamba")
    train(plan_of(cache, tmp_path / "out", student=str(small_student), packed=True, max_steps=2))


def test_a_fresh_student_has_the_shape_asked_for_and_the_cache_s_tokenizer(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    out = tmp_path / "student"
    train(plan_of(cache, out, layers=1, hidden_size=16, intermediate_size=24, heads=2, kv_heads=1, max_steps=2))
    model = AutoModelForCausalLM.from_pretrained(out)
    assert (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size) == (1, 16, 328)
    text = "Grüße, 你好"
    assert (
        AutoTokenizer.from_pretrained(out)(text)["input_ids"]
        == AutoTokenizer.from_pretrained(teacher)(text)["input_ids"]
    )


def test_fresh_students_with_impossible_shapes_are_refused(cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput):
        fresh(cache.manifest.teacher.config, {"hidden_size": 30, "num_attention_heads": 4})
    with pytest.raises(BadInput, match="no 'wings'"):
        fresh(cache.manifest.teacher.config, {"wings": 2})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 2_000_000_000}, "2,000,000,000 layers"),
        ({"hidden_size": 2_000_000, "intermediate_size": 8_000_000}, "GB of weights"),
    ],
)
def test_a_student_larger_than_the_memory_is_refused_before_it_is_made(
    cache: logitstore.Cache, changes: dict[str, int], said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        fresh(cache.manifest.teacher.config, changes)


def test_copied_layers_keep_their_weights(tmp_path: Path) -> None:
    source = save_model(tmp_path / "source", None, 40, num_hidden_layers=5)
    weights = AutoModelForCausalLM.from_pretrained(source).state_dict()
    model = copied(ModelRef.parse(str(source)), "0,3")
    kept = model.state_dict()
    assert model.config.num_hidden_layers == 2
    assert torch.equal(kept["model.layers.1.mlp.up_proj.weight"], weights["model.layers.3.mlp.up_proj.weight"])
    assert torch.equal(kept["model.embed_tokens.weight"], weights["model.embed_tokens.weight"])
    everything = copied(ModelRef.parse(str(source)), "5")
    tokens = torch.arange(10)[None]
    expected = AutoModelForCausalLM.from_pretrained(source)(tokens).logits
    torch.testing.assert_close(everything(tokens).logits, expected)


def test_a_pruned_student_is_as_narrow_as_asked_for_and_nearer_to_its_teacher_than_a_fresh_one(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    """The teacher itself with fewer neurons and heads, before it learns anything worth the name."""
    shape = {"intermediate_size": 40, "heads": 2, "kv_heads": 1, "layers": None}
    options = {"max_steps": 1, "learning_rate": 1e-9}
    pruned = train(
        plan_of(cache, tmp_path / "pruned", student=str(teacher), prune=True, prune_samples=20, **shape, **options)
    )
    made = train(plan_of(cache, tmp_path / "fresh", **shape | {"layers": 2}, **options))
    config = AutoModelForCausalLM.from_pretrained(tmp_path / "pruned").config
    assert (config.intermediate_size, config.num_attention_heads, config.num_key_value_heads) == (40, 2, 1)
    assert pruned["eval_kl"] < made["eval_kl"]
    with pytest.raises(BadInput, match="--prune needs --hidden-size"):
        train(plan_of(cache, tmp_path / "other", student=str(teacher), prune=True))
    stages: list[str] = []
    plan = plan_of(cache, tmp_path / "other", student=str(teacher), prune=True, hidden_size=30)
    with pytest.raises(BadInput, match="not a multiple of the number of attention heads"):
        train(plan, lambda step: stages.append(step.stage))
    assert "prune" not in stages


def test_layers_are_named_or_spread() -> None:
    assert parse_layers("5", 30) == [0, 7, 14, 22, 29]
    assert parse_layers("1", 30) == [0]
    assert parse_layers("0, 4,29", 30) == [0, 4, 29]
    for text in ("", "x", "0,0", "3,1", "0,30", "0", "31"):
        with pytest.raises(BadInput):
            parse_layers(text, 30)


def test_students_too_short_for_the_samples_are_refused(
    cache: logitstore.Cache, tokenizer: Any, tmp_path: Path
) -> None:
    short = save_model(tmp_path / "short", tokenizer, VOCABULARY, max_position_embeddings=32)
    with pytest.raises(CacheMismatch, match="takes at most 32"):
        train(plan_of(cache, tmp_path / "out", student=str(short)))
