"""Weights that are frozen stay as they are, and options that would change nothing or make something useless are refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.errors import BadInput
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.fixtures import Refused
from tests.parts.adapters import ALL, saved_adapter, weights_of
from tests.parts.texts import VOCABULARY, save_model
from tests.parts.training import plan_of

pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.* is deprecated:FutureWarning")


def changed(student: Path, out: Path) -> set[str]:
    """The names of the weights that training has changed."""
    before, after = (load_file(folder / "model.safetensors") for folder in (student, out))
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    ("freeze", "is_frozen"),
    [
        (["lm_head.weight"], lambda name: name == "lm_head.weight"),
        (["model.*"], lambda name: name.startswith("model.")),
        (["*_proj.weight", "model.embed_tokens.*"], lambda name: "_proj" in name or "embed" in name),
        (["model.layers.[1-9].*"], lambda name: name.startswith("model.layers.1")),
    ],
)
def test_frozen_weights_stay_and_all_others_are_trained(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path, freeze: list[str], is_frozen: Any
) -> None:
    said: list[str] = []
    train(plan_of(cache, tmp_path / "out", student=str(teacher), max_steps=2, freeze=freeze), notice=said.append)
    every: dict[str, Tensor] = load_file(teacher / "model.safetensors")
    trained = {name for name in every if not is_frozen(name)}
    assert changed(teacher, tmp_path / "out") == trained
    count, of = sum(every[name].numel() for name in trained), sum(value.numel() for value in every.values())
    assert any(f"{count:,} of {of:,} weights are trained" in each for each in said)


def test_a_frozen_run_is_resumed(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"student": str(small_student), "freeze": ["model.embed_tokens.*"], "max_steps": 4}
    options |= {"save_every": 2, "keep_checkpoints": 2}
    train(plan_of(cache, tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-2", tmp_path / "stopped" / "checkpoint-2")
    train(plan_of(cache, tmp_path / "stopped", resume=True, **options))
    assert not changed(tmp_path / "whole", tmp_path / "stopped")


def test_a_weight_that_two_layers_share_is_frozen_by_either_name(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = save_model(tmp_path / "tied", tokenizer, VOCABULARY, num_hidden_layers=1, tie_word_embeddings=True)
    train(plan_of(cache, tmp_path / "out", student=str(student), max_steps=1, freeze=["lm_head.*"]))
    assert "model.embed_tokens.weight" not in changed(student, tmp_path / "out")


def test_a_part_of_an_adapter_and_of_a_fresh_student_can_be_frozen(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"max_steps": 2}
    train(plan_of(cache, tmp_path / "a", student=str(teacher), lora=ALL, freeze=["model.layers.0.*"], **options))
    moved = {
        name.split(".")[4] for name, value in weights_of(tmp_path / "a").items() if "lora_B" in name and value.any()
    }
    assert moved == {"1"}
    train(plan_of(cache, tmp_path / "fresh", layers=1, freeze=["model.norm.*"], **options))
    assert (load_file(tmp_path / "fresh" / "model.safetensors")["model.norm.weight"] == 1).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"freeze": ["model.layer.*"]},
            "--freeze model.layer.*: no weight of {student} has such a name; they are called model.",
        ),
        ({"freeze": ["*"]}, "--freeze *: no weight of {student} is left to train"),
        ({"freeze": ["lm_head.*", "lm_*"]}, "--freeze lm_*: what it describes of {student} is not trained anyhow"),
        (
            {"freeze": ["lm_head.*"], "lora": ALL},
            "--freeze lm_head.*: what it describes of {student} is not trained anyhow",
        ),
        ({"lora": "targets=q_prj"}, "--lora: no layer of {student} is called 'q_prj'. Did you mean 'q_proj'?"),
        ({"lora": "targets=q_proj,w_proj"}, "--lora: no layer of {student} is called 'w_proj'"),
        ({"lora": "targets=input_layernorm"}, "cannot have it: Target module LlamaRMSNorm"),
        ({"lora": ALL, "student": None}, "--lora needs a --student"),
        ({"lora_merge": True}, "--lora-merge: it changes nothing without --lora"),
        ({"lora": ALL, "keep_zeros": True}, "--keep-zeros: an adapter adds to every weight"),
        (
            {"lora": ALL, "copy_layers": "1"},
            "--lora with --copy-layers: the model that the adapter changes lies nowhere",
        ),
        (
            {"lora": ALL, "prune": True, "intermediate_size": 24},
            "--lora with --prune: the model that the adapter changes lies",
        ),
    ],
    ids=str,
)
def test_what_would_change_nothing_or_be_of_no_use_is_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInput, match=re.escape(said.format(student=small_student))):
        train(plan_of(cache, tmp_path / "out", **{"student": str(small_student), "max_steps": 1} | options))
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_adapter_that_is_there_is_not_put_on_again_or_on_another_shape(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    adapter = saved_adapter(small_student, tmp_path / "adapter")
    for more, said in (
        (("--lora", "r=4"), "has its adapter already"),
        (("--copy-layers", "1"), "does not fit a model of another shape"),
        (("--keep-zeros",), "an adapter adds to every weight"),
    ):
        assert said in refused("train", cache.path, "--student", adapter, "--out", tmp_path / "out", *more)


def test_a_student_of_some_layers_is_trained_by_an_adapter_that_is_added_to_it(
    cache: logitstore.Cache, teacher: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"student": str(teacher), "copy_layers": "1", "lora": ALL, "lora_merge": True}
    train(plan_of(cache, tmp_path / "out", max_steps=2, **options))
    before, after = (load_file(folder / "model.safetensors") for folder in (teacher, tmp_path / "out"))
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert moved == {name for name in after if name.endswith("_proj.weight")}


def test_zeros_that_an_adapter_fills_are_said(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    student = shutil.copytree(small_student, tmp_path / "sparse")
    weights = load_file(student / "model.safetensors")
    for name, value in weights.items():
        if "_proj" in name:
            value[:, ::2] = 0
    save_file(weights, student / "model.safetensors", metadata={"format": "pt"})
    said: list[str] = []
    options: dict[str, Any] = {"student": str(student), "lora": ALL, "max_steps": 1}
    train(plan_of(cache, tmp_path / "out", **options), notice=said.append)
    assert any("50% of its weights are 0, and the adapter adds to them" in each for each in said)
    with pytest.raises(BadInput, match="would be kept, but an adapter adds to them"):
        train(plan_of(cache, tmp_path / "kept", keep_zeros_from=0.25, **options))


def test_a_classifier_is_trained_by_an_adapter_and_judged_with_it(
    image_cache: logitstore.Cache, classifier: Path, images: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"student": str(classifier), "images": str(images), "lora": ALL, "max_steps": 2}
    figures = {}
    for name, merge in (("adapter", False), ("merged", True)):
        train(plan_of(image_cache, tmp_path / name, lora_merge=merge, **options))
        assert (tmp_path / name / "preprocessor_config.json").is_file()
        settings = EvaluateSettings(
            cache=image_cache.path, student=str(tmp_path / name), images=str(images), holdout=0.2, device="cpu"
        )
        figures[name] = evaluate(settings)
    assert figures["adapter"].kl == pytest.approx(figures["merged"].kl, abs=1e-6)
    (tmp_path / "adapter" / "preprocessor_config.json").unlink()
    settings = EvaluateSettings(
        cache=image_cache.path, student=str(tmp_path / "adapter"), images=str(images), holdout=0.2, device="cpu"
    )
    assert evaluate(settings) == figures["adapter"]
