"""A student that learns from several caches at once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.train.run_folder import with_objective
from logitstore.train.train import train
from tests.parts.classes import classes_plan, save_bert, wordpiece
from tests.parts.commands import Refused
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of, train_in_two


@pytest.fixture(scope="module")
def other_teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_model(tmp_path_factory.mktemp("teacher"), tokenizer, VOCABULARY, seed=7, hidden_size=48)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, other_teacher: Path, texts: Path) -> logitstore.Cache:
    """Another teacher about the same texts, in other parts and another form of row."""
    return dump(
        plan_for(
            other_teacher,
            texts,
            tmp_path_factory.mktemp("other") / "cache",
            samples_per_part=5,
            preset="small",
            k=None,
        )
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def test_weights_of_one_and_nothing_train_the_student_of_the_single_cache(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 6, "objective": "forward_kl", "alpha": 0.8}
    train(plan_of(cache, tmp_path / "alone", **usual))
    train(plan_of(cache, tmp_path / "both", **usual, also=[other.path], weights="1,0"))
    copy = shutil.copytree(cache.path, tmp_path / "copy")
    train(plan_of(cache, tmp_path / "twice", **usual, also=[copy], weights="gold"))
    for name in ("both", "twice"):
        assert curve(tmp_path / name) == pytest.approx(curve(tmp_path / "alone"), rel=1e-4)
    log = json.loads((tmp_path / "both" / "logitstore.json").read_text())["log"]
    for entry in (each for each in log if "loss" in each):
        assert entry["loss"] == pytest.approx(0.8 * entry["kl"] + 0.2 * entry["cross_entropy"], rel=1e-4)
        assert entry["kl/2"] > 0


@pytest.mark.parametrize("weighing", ["1,3", "linear(1,0),linear(0,1)", "gold", "entropy"])
def test_the_log_tells_what_each_teacher_adds(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path, weighing: str
) -> None:
    out = tmp_path / "out"
    train(
        plan_of(
            cache,
            out,
            student=str(small_student),
            max_steps=4,
            objective="forward_kl",
            also=[other.path],
            weights=weighing,
        )
    )
    log = [each for each in json.loads((out / "logitstore.json").read_text())["log"] if "loss" in each]
    for step, entry in enumerate(log):
        shares = {"1,3": (0.25, 0.75), "linear(1,0),linear(0,1)": (1 - step / 4, step / 4)}.get(weighing, (1.0, 1.0))
        assert entry["loss"] == pytest.approx(shares[0] * entry["kl"] + shares[1] * entry["kl/2"], rel=1e-4)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    usual: dict[str, Any] = {
        "student": str(small_student),
        "max_steps": 6,
        "save_every": 3,
        "keep_checkpoints": 2,
        "also": [other.path],
        "weights": "linear(1,0),linear(0,1)",
        "objective": "forward_kl",
    }
    train(plan_of(cache, tmp_path / "whole", **usual))
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", out / "checkpoint-3")
    command = ["--student", small_student, "--out", out, "--max-steps", 6, "--save-every", 3, "--resume", "--objective"]
    command += ["forward_kl", "--batch-size", 8, "--learning-rate", "3e-3", "--holdout", 0.2, "--device", "cpu"]
    command += ["--weights", usual["weights"]]
    copy = shutil.copytree(cache.path, tmp_path / "copy")
    assert "began with also = " in refused("train", cache.path, *command, "--also", copy)
    assert "began with weights = " in refused("train", cache.path, *command[:-1], "1,1", "--also", other.path)
    train(plan_of(cache, out, **usual, resume=True))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(out)[name])


def test_two_processes_learn_what_one_does(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 3, "also": [other.path], "weights": "gold"}
    usual["precision"] = "float32"
    train(plan_of(cache, tmp_path / "one", **usual, batch_size=4, accumulate=2))
    plan = plan_of(cache, tmp_path / "two", **usual, batch_size=4).model_dump(mode="json", exclude_unset=True)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"train": plan}))
    train_in_two(recipe)
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=1e-4)


def test_what_cannot_be_learned_together_is_refused(
    cache: logitstore.Cache,
    other: logitstore.Cache,
    other_teacher: Path,
    small_student: Path,
    texts: Path,
    tmp_path: Path,
    refused: Refused,
) -> None:
    def line(*flags: object) -> str:
        said = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", *flags)
        assert not (tmp_path / "out").exists()
        return said

    assert "--weights 1,2: there is one cache" in line("--weights", "1,2")
    said = refused("train", cache.path, "--also", other.path, "--student", small_student, "--out", other.path)
    assert f"{other.path} is the cache or a student itself" in said
    assert "is named twice" in line("--also", cache.path)
    assert "--also with --alpha 0" in line("--also", other.path, "--alpha", 0)
    assert "--also with taid" in line("--also", other.path, "--objective", "taid")
    assert "3 for 2 caches" in line("--also", other.path, "--weights", "1,1,1")
    fewer = dump(plan_for(other_teacher, texts, tmp_path / "fewer", limit=3)).path
    assert f"--also {fewer}: its samples are not those of {cache.path}" in line("--also", fewer)
    part = shutil.copytree(other.path, tmp_path / "part")
    shutil.rmtree(part / "parts" / "00001")
    assert "With --also every cache must be whole" in line("--also", part)


def test_the_objective_suits_every_cache(
    cache: logitstore.Cache,
    other: logitstore.Cache,
    other_teacher: Path,
    texts: Path,
    small_student: Path,
    tmp_path: Path,
) -> None:
    """Rows that have a tail of their own, or none, lose it under renormalised_kl."""
    cut = dump(plan_for(other_teacher, texts, tmp_path / "cut", tail="uniform"))
    bare = dump(plan_for(other_teacher, texts, tmp_path / "bare", tail="none"))
    for also, name in (([], "renormalised_kl"), ([cut], "renormalised_kl"), ([cut, other], "forward_kl")):
        settings = plan_of(cache, tmp_path / "out", student=str(small_student), also=[each.path for each in also])
        assert with_objective(settings, cache).objective == name
    for first, second in ((cache, bare), (bare, cache), (other, cache)):
        settings = plan_of(first, tmp_path / "out", student=str(small_student), also=[second.path])
        assert with_objective(settings, first).objective == "forward_kl"


def test_weights_by_labels_that_are_not_there_are_refused(judge: Path, labelled: Path, tmp_path: Path) -> None:
    caches = [
        dump(classes_plan(teacher, labelled, tmp_path / name, labels=False))
        for name, teacher in (("one", judge), ("two", save_bert(tmp_path / "teacher", wordpiece(), seed=5)))
    ]
    student = save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    usual: dict[str, Any] = {"student": str(student), "max_steps": 2, "also": [caches[1].path], "alpha": 1}
    with pytest.raises(BadInput, match=r"--weights gold: .* no row has a gold token or label"):
        train(plan_of(caches[0], tmp_path / "out", **usual, weights="gold"))
    train(plan_of(caches[0], tmp_path / "out", **usual, weights="entropy", hooks=["quantise:bits=4"]))
    values = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").classifier.weight
    assert all(len(row.unique()) <= 16 for row in values)
