"""Hooks by name: options, refusals, and those of other packages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import logitstore
from logitstore.errors import BadInput
from logitstore.settings.models.hook import Hook
from logitstore.settings.train import TrainSettings
from logitstore.train.students.hooks.known import HOOKS, made, options_of
from logitstore.train.train import train
from tests.parts.commands import logitstore_command
from tests.parts.places import ROOT
from tests.parts.training import plan_of

PLUGIN = ROOT / "tests" / "parts" / "plugin"
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(PLUGIN), os.environ.get("PYTHONPATH", "")])}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("quantise", "quantise"),
        (" quantise : bits = 4 , targets=a,b ", "quantise:bits=4,targets=a,b"),
        ({"name": "quantise", "options": {"symmetric": False}}, "quantise:symmetric=false"),
        ({"name": "quantise"}, "quantise"),
    ],
)
def test_a_hook_has_one_spelling(given: Any, text: str) -> None:
    assert str(Hook.of(given)) == text
    assert str(Hook.of(text)) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "write NAME:option=value"),
        ("quantise:4", "write NAME:option=value"),
        ("quantise:bits=", "write NAME:option=value"),
        ("quantise:bits=4,bits=5", "'bits' is given twice"),
        ({"name": "quantise", "bits": 4}, "write NAME:option=value"),
        ({"name": "quantise", "options": {"bits": {}}}, "write NAME:option=value"),
    ],
)
def test_another_form_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainSettings(cache="c", out="o", hooks=[given])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("quantize", "no hook has this name. Did you mean 'quantise'?"),
        ("quantise:bit=4", "no option named 'bit'. Did you mean 'bits'?"),
        ("quantise:bits=four", "bits is 'four', but must be like 8"),
        ("quantise:bits=true", "bits is True, but must be like 8"),
        ("quantise:bits=1", "bits is 1, but must be from 2 (with symmetric=false 1) to 16"),
        ("quantise:bits=17", "must be from 2 to 16"),
        ("low_rank", "give one of rank and ratio"),
        ("low_rank:rank=4,ratio=3", "give one of rank and ratio"),
        ("low_rank:ratio=1", "ratio is 1, but must be a number above 1"),
        ("low_rank:rank=4,penalty=-1", "penalty is -1, but must not be below 0"),
        ("low_rank:rank=4,distance=0.1", "distance is 0.1, which changes nothing without a penalty"),
        ("learned_levels:bits=9", "bits is 9, but must be from 1 to 8"),
        ("learned_levels:start=zero", "start is 'zero', but must be quantiles or even"),
        ("low_rank:rank=0", "rank is 0, but must be a whole number from 1"),
        ("low_rank:rank=1.5", "rank is 1.5, but must be a whole number from 1"),
    ],
)
def test_what_cannot_be_is_refused_before_weights_are_loaded(
    text: str, message: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        train(plan_of(cache, tmp_path / "out", student=str(tmp_path), hooks=[text]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hooks": ["quantise", "quantise:bits=4"]}, "--hook quantise: it is given twice"),
        ({"hooks": ["low_rank:rank=4", "quantise:bits=4"]}, "do not go together"),
        ({"hooks": ["quantise:bits=4", "low_rank:rank=4"]}, "do not go together"),
        ({"hooks": ["quantise:targets=q_prj"]}, "targets=q_prj: no layer with a matrix has this name; they end in"),
        ({"hooks": ["quantise"], "trainer": {"optim": "lomo"}}, "changes weights during the backward pass"),
    ],
)
def test_hooks_that_do_not_go_together_are_refused(
    options: dict[str, Any], message: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=message):
        train(plan_of(cache, tmp_path / "out", student=str(small_student), **options))


def test_a_hook_beside_an_adapter_is_refused(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    with pytest.raises(BadInput, match="--hook quantise: an adapter adds to the weights"):
        train(plan_of(cache, tmp_path / "out", student=str(small_student), lora="r=2", hooks=["quantise"]))


def test_two_hooks_that_keep_each_other_s_rule_go_together(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    hooks = ["low_rank:rank=3,targets=q_proj", "quantise:bits=3,targets=up_proj"]
    train(plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=2, holdout=0, hooks=hooks))
    for name, value in load_file(tmp_path / "out" / "model.safetensors").items():
        if "q_proj" in name:
            assert torch.linalg.matrix_rank(value, rtol=1e-4) == 3
        if "up_proj" in name:
            assert max(len(row.unique()) for row in value) <= 8


def test_the_help_names_every_hook() -> None:
    said = TrainSettings.model_fields["hooks"].description or ""
    assert all(f"{name}:" in said for name in HOOKS)
    assert options_of(type(made("quantise"))) == {"bits": 8, "symmetric": True, "targets": ("all-linear",)}


def test_a_plugin_s_hook_is_known_by_name_and_followed(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [
        "--student",
        small_student,
        "--out",
        out,
        "--max-steps",
        "3",
        "--device",
        "cpu",
        "--learning-rate",
        "3e-2",
    ]
    done = logitstore_command("train", cache.path, *options, "--hook", "clip:limit=0.05", **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "no weight is larger than 0.05" in done.stderr.replace("\n", " ")
    largest = max(float(value.abs().max()) for value in load_file(out / "model.safetensors").values())
    assert largest == pytest.approx(0.05)
    for hook, environment, message in (
        ("clip", ENVIRONMENT, "limit must be given. Write clip:limit=..."),
        ("clip:limit=1", {}, "no hook has this name"),
    ):
        asked = ["--student", small_student, "--out", tmp_path / "no", "--hook", hook]
        done = logitstore_command("train", cache.path, *asked, **environment)
        assert done.returncode == 2
        assert message in done.stderr
