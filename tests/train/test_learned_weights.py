"""Runs whose weights are learned, and runs with a temperature of each row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.scored import scored_cache
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import curve, plan_of


@pytest.fixture(scope="module")
def other(
    tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast, texts: Path
) -> logitstore.Cache:
    """Another teacher about the same texts."""
    teacher = save_model(tmp_path_factory.mktemp("teacher"), tokenizer, VOCABULARY, seed=7, hidden_size=48)
    return dump(plan_for(teacher, texts, tmp_path_factory.mktemp("other") / "cache"))


def logged(out: Path) -> list[dict[str, float]]:
    return [each for each in json.loads((out / "logitstore.json").read_text())["log"] if "loss" in each]


@pytest.mark.parametrize("weighing", ["gate", "gate:top=1", "geometry"])
def test_what_is_learned_is_logged_and_goes_on_after_an_interruption(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path, weighing: str
) -> None:
    usual: dict[str, Any] = {
        "student": str(small_student),
        "max_steps": 20,
        "save_every": 14,
        "keep_checkpoints": 2,
        "also": [other.path],
        "weights": weighing,
        "objective": "forward_kl",
        "batch_size": 4,
    }
    train(plan_of(cache, tmp_path / "whole", **usual))
    log = logged(tmp_path / "whole")
    first, last = log[0], log[-1]
    total = 2 / 3 if weighing == "geometry" else 1
    if weighing == "gate:top=1":
        assert all({entry["share"] <= 1, entry["share/2"] <= 1} == {True} for entry in log)
    else:
        assert first["share"] == pytest.approx(total / 2, rel=1e-5)
        assert (last["share"], last["share/2"]) != pytest.approx((first["share"], first["share/2"]), abs=1e-4)
    for entry in log:
        terms = entry["kl"] + entry["kl/2"] + entry.get("cross_entropy", 0.0)
        assert entry["loss"] == pytest.approx(terms, rel=1e-4)
    assert last["loss"] < first["loss"]
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "whole" / "checkpoint-14", out / "checkpoint-14")
    kept = load_file(out / "checkpoint-14" / "criterion.safetensors")
    assert any("routing" in name for name in kept)
    train(plan_of(cache, out, **usual, resume=True))
    for name, value in load_file(tmp_path / "whole" / "model.safetensors").items():
        assert torch.equal(value, load_file(out / "model.safetensors")[name])


def test_a_gate_over_the_same_teacher_twice_is_the_single_teacher(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 6, "objective": "forward_kl", "alpha": 0.8}
    train(plan_of(cache, tmp_path / "alone", **usual))
    copy = shutil.copytree(cache.path, tmp_path / "copy")
    train(plan_of(cache, tmp_path / "twice", **usual, also=[copy], weights="gate"))
    assert curve(tmp_path / "twice") == pytest.approx(curve(tmp_path / "alone"), rel=1e-4)


def test_a_geometry_of_one_teacher_weighs_it_against_the_gold_token(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(plan_of(cache, out, student=str(small_student), max_steps=20, weights="geometry", batch_size=4))
    log = logged(out)
    assert log[0]["share"] == pytest.approx(0.5, rel=1e-5)
    assert "share/2" not in log[0]
    assert abs(log[-1]["share"] - 0.5) > 1e-3
    assert log[-1]["loss"] < log[0]["loss"]


@pytest.mark.parametrize("rule", ["entropy(1,4)", "nll(1, 3)"])
def test_rows_have_temperatures_of_their_own(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path, rule: str
) -> None:
    out, flat = tmp_path / "out", tmp_path / "flat"
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 20, "alpha": 0.8, "batch_size": 4}
    train(plan_of(cache, out, **usual, temperature=rule, also=[other.path]))
    log = logged(out)
    assert log[-1]["loss"] < log[0]["loss"]
    if rule.startswith("entropy"):
        for place, temperature in (("rule", "entropy(2,2)"), ("number", 2)):
            train(plan_of(cache, flat / place, **usual | {"max_steps": 4}, temperature=temperature))
        assert curve(flat / "rule") == pytest.approx(curve(flat / "number"), rel=1e-4)


def test_a_score_of_the_data_sets_the_temperature_of_its_rows(
    teacher: Path, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    scored = scored_cache(teacher, tmp_path)
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 20, "alpha": 0.8, "batch_size": 4}
    flat = {"number": 2, "rule": "column:correct(2,2)", "scores": "column:correct(2,6)"}
    for name, temperature in flat.items():
        train(plan_of(scored, tmp_path / name, **usual, temperature=temperature))
    assert curve(tmp_path / "rule") == pytest.approx(curve(tmp_path / "number"), rel=1e-4)
    assert curve(tmp_path / "scores") != pytest.approx(curve(tmp_path / "number"), rel=1e-3)
    command = ["train", scored.path, "--student", small_student, "--out", tmp_path / "no", "--temperature"]
    assert "takes scores from 0 to 1" in refused(*command, "column:reward(1,4)")
    assert "keeps no score named 'private'" in refused(*command, "column:private(1,4)")


def test_what_cannot_be_learned_or_tempered_is_refused(
    cache: logitstore.Cache, other: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    def line(*flags: object) -> str:
        return refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", *flags)

    assert "--weights gate: there is one cache" in line("--weights", "gate")
    assert "write gate, gate:top=1 or geometry" in line("--also", other.path, "--weights", "gate:top=3")
    assert "--weights geometry with --alpha 0.5" in line("--weights", "geometry", "--alpha", 0.5)
    assert "held-out samples" in line("--weights", "geometry", "--holdout", 0)
    assert "keeps no scores" in line("--temperature", "column:private(1,4)")
    assert "reverse_kl is a part of the loss" in line("--temperature", "entropy(1,4)", "--objective", "reverse_kl")
    assert "must be above 0" in line("--temperature", "entropy(0,4)")
    assert "is no schedule" in line("--temperature", "length(1,4)")
