"""A run goes on with all the weights of its checkpoint, under whatever names they were saved."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    TrainingArguments,
)

import logitstore
from logitstore.errors import BadInput, LogitstoreError, ModelError
from logitstore.models.load import load_again
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.train import train
from logitstore.train.trainer import DistillTrainer
from tests.parts.marks import often
from tests.parts.texts import PADDED_VOCABULARY
from tests.parts.training import curve, plan_of

SHAPE: dict[str, Any] = {
    "vocab_size": PADDED_VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
KINDS: dict[str, Callable[[], PretrainedConfig]] = {
    "mixtral": lambda: MixtralConfig(**SHAPE, num_local_experts=4),
    "qwen2_moe": lambda: Qwen2MoeConfig(
        **SHAPE, num_experts=4, moe_intermediate_size=16, shared_expert_intermediate_size=16
    ),
    "tied llama": lambda: LlamaConfig(**SHAPE, tie_word_embeddings=True),
    "gpt2": lambda: GPT2Config(vocab_size=PADDED_VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=512),
}


def student_of(kind: str, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(KINDS[kind]()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", often(KINDS, lambda kind: kind in ("mixtral", "tied llama")))
def test_a_resumed_run_ends_with_the_weights_of_one_that_was_not_stopped(
    kind: str, cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = student_of(kind, tokenizer, tmp_path / "student")
    options: dict[str, Any] = {
        "student": str(student),
        "max_steps": 4,
        "save_every": 2,
        "holdout": 0,
        "keep_checkpoints": 2,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(plan_of(cache, whole, **options))
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)
    expected, found = (load_file(out / "model.safetensors") for out in (whole, stopped))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("kind", ["mixtral", "gpt2"])
def test_the_best_checkpoint_is_taken_whole(
    kind: str, cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student, out = student_of(kind, tokenizer, tmp_path / "student"), tmp_path / "out"
    trainer = {
        "logging_steps": 1,
        "load_best_model_at_end": True,
        "metric_for_best_model": "kl",
        "greater_is_better": True,
    }
    options: dict[str, Any] = {"max_steps": 4, "save_every": 2, "evaluate_every": 2, "trainer": trainer}
    options["keep_checkpoints"] = 2
    train(plan_of(cache, out, student=str(student), **options))
    ends = {step: load_file(out / f"checkpoint-{step}" / "model.safetensors") for step in (2, 4)}
    saved = load_file(out / "model.safetensors")
    # the higher KL is the worse one, so the first checkpoint is taken
    assert [name for name, value in saved.items() if not torch.equal(value, ends[2][name])] == []
    assert [name for name, value in saved.items() if not torch.equal(value, ends[4][name])] != []


@pytest.mark.parametrize("several", [False, True])
def test_a_checkpoint_that_lacks_a_weight_is_refused(
    several: bool, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    students = [Path(shutil.copytree(small_student, tmp_path / name)) for name in ("one", "two")]
    names = [str(each) for each in students] if several else str(students[0])
    out = tmp_path / "out"
    options: dict[str, Any] = {"student": names, "save_every": 1, "holdout": 0}
    train(plan_of(cache, out, **options, max_steps=1))
    file = out / "checkpoint-1" / ("two" if several else "") / "model.safetensors"
    weights = load_file(file)
    weights.pop("model.layers.0.mlp.up_proj.weight")
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(LogitstoreError, match=r"has no values for the weight model\.layers\.0\.mlp\.up_proj\.weight"):
        train(plan_of(cache, out, **options, max_steps=2, resume=True))


def test_a_weight_of_another_shape_is_refused(small_student: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_student)
    folder = Path(shutil.copytree(small_student, tmp_path / "other"))
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"lm_head.weight": torch.zeros(9, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the weight lm_head\.weight in shape \(9, 32\)"):
        load_again(model, folder)


def by_hand(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> DistillTrainer:
    """A trainer without the command around it."""
    batch_size = changes.pop("loader", 8)
    usual = {"per_device_train_batch_size": 8, "save_steps": 1, "report_to": "none", "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(out), use_cpu=True, **usual | changes)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    learner = Learner(student=model, criterion=Criterion.mixed())
    loader = Loader(cache, batch_size=batch_size)
    return DistillTrainer(learners=[learner], args=arguments, train_loader=loader, held_out_loader=None)


def test_a_trainer_that_is_used_by_hand_checks_its_checkpoint_as_the_command_does(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    by_hand(cache, small_student, tmp_path, max_steps=1).train()
    checkpoint = tmp_path / "checkpoint-1"
    for changes in ({"loader": 4}, {"per_device_train_batch_size": 4}, {"gradient_accumulation_steps": 2}):
        with pytest.raises(
            BadInput, match=r"was written in batches of 8, after .* Give the options that the run began"
        ):
            by_hand(cache, small_student, tmp_path, max_steps=2, **changes).train(str(checkpoint))
    trainer = by_hand(cache, small_student, tmp_path, max_steps=2)
    trainer.train(str(checkpoint))
    assert trainer.state.global_step == 2
    weights = load_file(checkpoint / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"no values for the weight model\.norm\.weight"):
        by_hand(cache, small_student, tmp_path, max_steps=3).train(str(checkpoint))
