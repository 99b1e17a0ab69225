"""An objective from another package: one file, one entry, one test; it trains, takes options and is suggested by name."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

import logitstore
from logitstore.targets.dense import dense_logprobs
from tests.parts.commands import logitstore_command
from tests.parts.places import ROOT
from tests.parts.targets import targets_of

PLUGIN = ROOT / "tests" / "parts" / "plugin"
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])}


def test_a_plugin_s_objective_is_the_formula_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(PLUGIN))
    brier = importlib.import_module("logitstore_brier").brier
    targets = targets_of("uniform", rows=5, k=4, vocabulary=9)
    student = torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    expected = 2 * (dense_logprobs(targets).double().exp() - student.softmax(-1)).square().sum(-1)
    torch.testing.assert_close(brier(student, targets, scale=2.0), expected)
    assert torch.autograd.gradcheck(lambda logits: brier(logits, targets), student)


def test_a_plugin_s_objective_trains_a_student(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"train": {"objective": "brier", "options": {"scale": 10.0}, "device": "cpu"}}))
    out = tmp_path / "student"
    options = ["--student", small_student, "--out", out, "--config", recipe, "--learning-rate", "3e-3"]
    done = logitstore_command("train", cache.path, *options, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    logged = [entry["brier"] for entry in json.loads((out / "logitstore.json").read_text())["log"] if "brier" in entry]
    assert logged[-1] < logged[0]


def test_options_and_names_of_plugins_are_checked_as_ours_are(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"train": {"objective": "brier", "options": {"scal": 10.0}}}))
    options = ["--student", small_student, "--out", tmp_path / "student"]
    done = logitstore_command("train", cache.path, *options, "--config", recipe, **ENVIRONMENT)
    assert done.returncode == 2
    assert "no option named 'scal'. Did you mean 'scale'?" in done.stderr
    done = logitstore_command("train", cache.path, *options, "--objective", "brir", **ENVIRONMENT)
    assert done.returncode == 2
    assert "Did you mean 'brier'?" in done.stderr
    done = logitstore_command("train", cache.path, *options, "--objective", "brier")
    assert done.returncode == 2
    assert "no objective named 'brier'" in done.stderr
