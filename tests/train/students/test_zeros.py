"""Sparse students keep their zeros."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.train.students.zeros import KeepZeros, share_of_zeros
from logitstore.train.train import train
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of, train_in_two


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    out = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(plan_for(teacher, texts, out, hidden="all", limit=12))


def sparse(folder: Path, tokenizer: PreTrainedTokenizerFast, share: float, **shape: Any) -> Path:
    """Save a student with some share of all its matrices, embeddings included, set to 0."""
    save_model(folder, tokenizer, VOCABULARY, seed=1, **shape)
    model = AutoModelForCausalLM.from_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.masked_fill_(torch.rand(weight.shape, generator=generator) < share, 0.0)
    model.save_pretrained(folder)
    return folder


def zeros_of(folder: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return {name: weight == 0 for name, weight in model.state_dict().items() if weight.dim() > 1}


def lost(before: Path, after: Path) -> tuple[int, int]:
    """Count the weights that were 0 and are not any more, and those that were 0."""
    pairs = zip(zeros_of(before).values(), zeros_of(after).values(), strict=True)
    counts = [(int((was & ~now).sum()), int(was.sum())) for was, now in pairs]
    return sum(gone for gone, _ in counts), sum(all_ for _, all_ in counts)


@pytest.mark.parametrize("recipe", ["squarehead", "ast"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_recipe_for_sparse_students_keeps_their_zeros(
    recipe: str, tied: bool, tapped: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student, out = sparse(tmp_path / "student", tokenizer, 0.5, tie_word_embeddings=tied), tmp_path / "out"
    usual = {"cache": tapped.path, "student": str(student), "device": "cpu", "max_steps": 3, "learning_rate": 3e-3}
    said: list[str] = []
    options = {"weight_decay": 0.1, "out": out, "holdout": 0}
    train(load(TrainSettings, "train", None, usual | options, named=recipe), notice=said.append)
    gone, zeros = lost(student, out)
    assert gone == 0
    assert zeros > 1000
    changed = AutoModelForCausalLM.from_pretrained(out).state_dict()
    before = AutoModelForCausalLM.from_pretrained(student).state_dict()
    assert any(not torch.equal(changed[name], before[name]) for name in before)
    assert any(f"{student}: 50% of its weights are 0 and stay so" in each for each in said)


@pytest.mark.parametrize(
    ("share", "options", "kept", "text"),
    [
        (0.5, {}, False, "warning: .*training fills them"),
        (0.5, {"keep_zeros": True}, True, "stay so"),
        (0.1, {"keep_zeros": True}, True, "stay so"),
        (0.1, {"keep_zeros_from": 0.25}, False, None),
        (0.5, {"keep_zeros_from": 0.25}, True, "stay so"),
        (0.5, {"keep_zeros_from": 0.25, "keep_zeros": False}, False, None),
    ],
)
def test_zeros_are_kept_where_the_plan_or_the_share_says_so(
    share: float,
    options: dict[str, Any],
    kept: bool,
    text: str | None,
    cache: logitstore.Cache,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    student, out = sparse(tmp_path / "student", tokenizer, share, num_hidden_layers=1), tmp_path / "out"
    said: list[str] = []
    train(plan_of(cache, out, student=str(student), max_steps=2, holdout=0, **options), notice=said.append)
    gone, _ = lost(student, out)
    assert (gone == 0) is kept
    found = [each for each in said if "of its weights are 0" in each]
    assert len(found) == (text is not None)
    assert text is None or re.search(text, found[0])


def test_a_resumed_run_keeps_the_zeros_of_the_student_it_began_with(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = sparse(tmp_path / "student", tokenizer, 0.5, num_hidden_layers=1)
    options = {
        "student": str(student),
        "max_steps": 6,
        "save_every": 3,
        "keep_checkpoints": 2,
        "keep_zeros": True,
        "holdout": 0,
    }
    train(plan_of(cache, tmp_path / "whole", **options))
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "stopped" / "checkpoint-3")
    train(plan_of(cache, tmp_path / "stopped", **options, resume=True))
    assert lost(student, tmp_path / "stopped")[0] == 0
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")


@pytest.mark.slow
def test_zeros_stay_in_two_processes(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    student = sparse(tmp_path / "student", tokenizer, 0.5, num_hidden_layers=1, tie_word_embeddings=True)
    plan = plan_of(cache, tmp_path / "out", student=str(student), max_steps=3, keep_zeros=True, holdout=0)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"train": plan.model_dump(mode="json")}))
    train_in_two(recipe)
    assert lost(student, tmp_path / "out")[0] == 0


def test_several_students_keep_their_own_zeros(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    students = [
        sparse(tmp_path / f"student{number}", tokenizer, share, num_hidden_layers=1)
        for number, share in enumerate((0.3, 0.6))
    ]
    train(plan_of(cache, tmp_path / "out", student=[*map(str, students)], max_steps=2, keep_zeros=True, holdout=0))
    assert [lost(each, tmp_path / "out" / each.name)[0] for each in students] == [0, 0]


def test_keeping_zeros_that_are_not_there_is_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"--keep-zeros: .* has no weights that are 0"):
        train(plan_of(cache, tmp_path / "out", student=str(small_student), keep_zeros=True))


def test_a_lost_zero_is_found(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(sparse(tmp_path / "student", tokenizer, 0.5))
    assert share_of_zeros(model) == pytest.approx(0.5, abs=0.02)
    zeros = KeepZeros("it")
    zeros.prepare(model)
    zeros.check(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight += 1
    with pytest.raises(ModelError, match=r"it: [\d,]+ weights of model.layers.1.mlp.up_proj.weight were 0"):
        zeros.check(model)
    zeros.after_step(model)
    zeros.check(model)
