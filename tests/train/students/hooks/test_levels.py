"""Students whose few values are learned: the points, the gradient, what is saved, and resumed runs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.errors import ModelError
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.students.hooks.levels import LearnedLevels, nearest, scaled
from logitstore.train.train import train
from tests.parts.training import curve, plan_of


def brute(points: Tensor, weight: Tensor) -> Tensor:
    """Each weight at the nearest point, in the scale of its row; points keep their gradient."""
    rows = []
    for row in weight:
        low, high = row.min(), row.max()
        numbers = [int((points.detach() - (each - low) / (high - low)).abs().argmin()) for each in row]
        rows.append(low + (high - low) * points[numbers])
    return torch.stack(rows)


def test_each_weight_takes_the_nearest_point_in_the_scale_of_its_channel() -> None:
    weight, points = torch.randn(3, 40, dtype=torch.float64), torch.tensor([0.7, 0.1, 0.45, 0.9]).double()
    scaled_CW, low, span = scaled(weight)
    torch.testing.assert_close(low + span * points[nearest(points, scaled_CW)], brute(points, weight))
    constant = torch.full((2, 5), 0.25)
    assert torch.equal(scaled(constant)[1] + 0 * scaled(constant)[0], constant)


@pytest.mark.parametrize("start", ["quantiles", "even"])
def test_steps_are_those_of_points_in_the_forward_pass(start: str, small_student: Path) -> None:
    """The reference has the points as parameters, and makes the weights of them inside its forward pass."""
    ids = torch.arange(12)[None] + 3
    hooked, plain = (AutoModelForCausalLM.from_pretrained(small_student).double() for _ in range(2))
    first = {name: weight.detach().clone() for name, weight in plain.named_parameters() if "up_proj" in name}
    hook = LearnedLevels(bits=2, start=start, targets=("up_proj",))
    hook.prepare(hooked)
    names = [each.name for each in hook._trained]
    assert set(names) == set(first)
    points = {name: own.detach().clone().requires_grad_() for name, own in zip(names, hook._points_P, strict=True)}
    if start == "even":
        assert torch.equal(points[names[0]].detach(), torch.linspace(0, 1, 4, dtype=torch.float64))
    else:
        share = (scaled(first[names[0]])[0].flatten()[:, None] < points[names[0]].detach()).double().mean(0)
        torch.testing.assert_close(share, (torch.arange(4).double() + 0.5) / 4, rtol=0, atol=1e-3)
    others = [weight for name, weight in plain.named_parameters() if name not in first]
    optimizers = [
        torch.optim.AdamW([*hooked.parameters(), *hook.modules().parameters()], lr=1e-2, weight_decay=0.0),
        torch.optim.AdamW([*others, *points.values()], lr=1e-2, weight_decay=0.0),
    ]
    for _ in range(4):
        hooked(input_ids=ids, labels=ids).loss.backward()
        hook.before_step(hooked)
        optimizers[0].step()
        hook.after_step(hooked)
        made = {name: brute(points[name], first[name]) for name in names}
        torch.func.functional_call(plain, made, kwargs={"input_ids": ids, "labels": ids}).loss.backward()
        optimizers[1].step()
        for each in optimizers:
            each.zero_grad()
    for name, own in zip(names, hook._points_P, strict=True):
        torch.testing.assert_close(own.detach(), points[name].detach(), rtol=1e-8, atol=1e-11)
        torch.testing.assert_close(hooked.get_parameter(name).detach(), brute(points[name], first[name]).detach())
    for name, weight in plain.named_parameters():
        if name not in first:
            torch.testing.assert_close(hooked.get_parameter(name), weight, rtol=1e-8, atol=1e-11)


def test_twenty_steps_learn_and_what_is_saved_answers_as_in_training(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    options: dict[str, Any] = {"max_steps": 20, "precision": "float32", "hooks": ["learned_levels:bits=2"]}
    figures = train(plan_of(cache, out, student=str(small_student), **options), notice=said.append)
    assert any("one of 4 values of their matrix (2 bits)" in each for each in said)
    saved = {name: value for name, value in load_file(out / "model.safetensors").items() if "_proj" in name}
    assert max(len(row.unique()) for value in saved.values() for row in value) == 4
    judged = evaluate(EvaluateSettings(cache=cache.path, student=str(out), holdout=0.2, dtype="float32", device="cpu"))
    assert judged.kl == pytest.approx(figures["eval_kl"], rel=1e-6)
    assert curve(out)[20] < curve(out)[1]


def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": str(small_student),
        "max_steps": 4,
        "save_every": 2,
        "keep_checkpoints": 2,
        "holdout": 0,
        "freeze": ["*q_proj*"],
        "hooks": ["learned_levels:bits=2"],
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(plan_of(cache, whole, **options))
    shutil.copytree(whole / "checkpoint-2", stopped / "checkpoint-2")
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)
    expected, found = (load_file(out / "model.safetensors") for out in (whole, stopped))
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    hook = LearnedLevels(bits=2)
    hook.prepare(model)
    for name, weight in model.named_parameters():
        if "q_proj" in name:  # frozen: rounded once
            assert torch.equal(found[name], weight)
    hook.check(model)
    with torch.no_grad():
        model.get_parameter(hook._all[0].name).add_(torch.rand(1000)[:1])
        model.get_parameter(hook._all[0].name)[0, :9] += torch.arange(9)
    with pytest.raises(ModelError, match="hook learned_levels: a channel of"):
        hook.check(model)
