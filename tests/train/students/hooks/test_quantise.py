"""Students whose weights have few values: the formula, the gradient, what is saved, and resumed runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, PreTrainedTokenizerFast

import logitstore
from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.students.hooks.quantise import Quantise, quantised
from logitstore.train.train import train
from tests.parts.texts import PADDED_VOCABULARY
from tests.parts.training import curve, plan_of, recipe_of, started_in, train_in_two


def linear_weights(folder: Path) -> dict[str, torch.Tensor]:
    weights = load_file(folder / "model.safetensors")
    return {name: value for name, value in weights.items() if "_proj" in name and value.dim() == 2}


def most_values(weights: dict[str, torch.Tensor]) -> int:
    """The largest number of values in a channel."""
    return max(len(row.unique()) for value in weights.values() for row in value)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_weight_is_the_nearest_of_the_values_of_its_channel(bits: int, symmetric: bool) -> None:
    weight = torch.randn(5, 300, dtype=torch.float64)
    found = quantised(weight, bits, symmetric=symmetric)
    for row, rounded in zip(weight, found, strict=True):
        if symmetric:
            largest = row.abs().max()
            values = torch.linspace(-1, 1, 2**bits - 1, dtype=torch.float64) * largest
        else:
            values = torch.linspace(float(row.min()), float(row.max()), 2**bits, dtype=torch.float64)
        nearest = values[(row[:, None] - values).abs().argmin(1)]
        torch.testing.assert_close(rounded, nearest, rtol=1e-12, atol=1e-12)
        assert len(rounded.unique()) <= 2**bits


def test_channels_of_zeros_and_of_one_value_stay() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]])
    assert torch.equal(quantised(weight, 4, symmetric=False), weight)
    assert torch.equal(quantised(weight, 4, symmetric=True), weight)
    sparse = torch.randn(4, 50).masked_fill_(torch.rand(4, 50) < 0.5, 0.0)
    assert (quantised(sparse, 4, symmetric=True)[sparse == 0] == 0).all()


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(_context: Any, weight: torch.Tensor) -> torch.Tensor:
        return quantised(weight, 3, symmetric=True)

    @staticmethod
    def backward(_context: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


def test_steps_are_those_of_a_straight_through_estimator(small_student: Path) -> None:
    """The reference keeps the weights in float32, and rounds them inside its forward pass."""
    ids = torch.arange(12)[None] + 3
    hooked, plain = (AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32) for _ in range(2))
    hook = Quantise(bits=3)
    hook.prepare(hooked)
    optimizers = [torch.optim.AdamW(each.parameters(), lr=1e-2, weight_decay=0.1) for each in (hooked, plain)]
    names = [name for name, _ in plain.named_parameters() if "_proj" in name]
    for _ in range(4):
        hooked(input_ids=ids, labels=ids).loss.backward()
        hook.before_step(hooked)
        optimizers[0].step()
        hook.after_step(hooked)
        weights = dict(plain.named_parameters())
        rounded = {name: _Through.apply(weights[name]) for name in names}
        torch.func.functional_call(plain, rounded, kwargs={"input_ids": ids, "labels": ids}).loss.backward()
        optimizers[1].step()
        for each in optimizers:
            each.zero_grad()
    behind = dict(zip([each.name for each in hook._trained], hook.modules().buffers(), strict=True))
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(behind.get(name, hooked.get_parameter(name)), weight, rtol=0, atol=0, msg=name)
    assert set(behind) == set(names)


@pytest.mark.parametrize(("bits", "symmetric"), [(4, True), (1, False)])
def test_what_is_saved_answers_as_in_training(
    bits: int, symmetric: bool, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    said: list[str] = []
    hook = f"quantise:bits={bits},symmetric={str(symmetric).lower()}"
    plan = plan_of(cache, out, student=str(small_student), max_steps=4, precision="float32", hooks=[hook])
    figures = train(plan, notice=said.append)
    assert any(f"at most {2**bits} values in a channel" in each for each in said)
    after, before = linear_weights(out), linear_weights(small_student)
    assert 2 <= most_values(after) <= 2**bits < most_values(before)
    judged = evaluate(EvaluateSettings(cache=cache.path, student=str(out), holdout=0.2, dtype="float32", device="cpu"))
    assert judged.kl == pytest.approx(figures["eval_kl"], rel=1e-6)
    assert judged.cross_entropy == pytest.approx(figures["eval_cross_entropy"], rel=1e-6)


def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": str(small_student),
        "max_steps": 6,
        "save_every": 3,
        "keep_checkpoints": 2,
        "holdout": 0,
        "hooks": ["quantise:bits=3"],
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(plan_of(cache, whole, **options))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    with pytest.raises(BadInput, match=r"began with hooks = \['quantise:bits=3'\], not \['quantise:bits=4'\]"):
        train(plan_of(cache, stopped, **options | {"hooks": ["quantise:bits=4"]}, resume=True))
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)
    expected, found = (load_file(out / "model.safetensors") for out in (whole, stopped))
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_the_best_student_is_saved_with_few_values(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = {"load_best_model_at_end": True, "metric_for_best_model": "kl", "greater_is_better": True}
    options: dict[str, Any] = {"max_steps": 4, "save_every": 2, "evaluate_every": 2, "trainer": trainer}
    out = tmp_path / "out"
    train(plan_of(cache, out, student=str(small_student), hooks=["quantise:bits=2"], **options))
    assert most_values(linear_weights(out)) <= 4
    best = load_file(out / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(best[name], value) for name, value in linear_weights(out).items())


def test_zeros_are_kept_beside_it_and_several_students_each_have_their_own(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    students = []
    for number in range(2):
        model = AutoModelForCausalLM.from_pretrained(small_student)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "_proj" in name:
                    weight.masked_fill_(torch.rand(weight.shape) < 0.4 + 0.2 * number, 0.0)
        shutil.copytree(small_student, tmp_path / f"s{number}")
        model.save_pretrained(tmp_path / f"s{number}")
        students.append(tmp_path / f"s{number}")
    out = tmp_path / "out"
    options: dict[str, Any] = {"keep_zeros": True, "hooks": ["quantise:bits=4,targets=q_proj,up_proj"], "max_steps": 2}
    train(plan_of(cache, out, student=[*map(str, students)], holdout=0, **options))
    for student in students:
        before, after = linear_weights(student), linear_weights(out / student.name)
        assert all((after[name][value == 0] == 0).all() for name, value in before.items())
        chosen = {name: value for name, value in after.items() if "q_proj" in name or "up_proj" in name}
        assert most_values(chosen) <= 16 < most_values(after)


def test_layers_of_gpt2_have_their_channels_in_the_other_dimension(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=PADDED_VOCABULARY, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    model = AutoModelForCausalLM.from_config(config)
    before = model.transformer.h[0].attn.c_attn.weight.detach().clone()
    hook = Quantise(bits=2)
    hook.prepare(model)
    assert torch.equal(model.transformer.h[0].attn.c_attn.weight, quantised(before.T, 2, symmetric=True).T)
    hook.check(model)
    with torch.no_grad():
        model.transformer.h[0].attn.c_attn.weight += torch.rand(32, 96)
    with pytest.raises(
        ModelError, match=r"hook quantise: a channel of transformer.h.0.attn.c_attn.weight has 32 values"
    ):
        hook.check(model)


@pytest.mark.slow
def test_weights_in_pieces_are_refused(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    plan = plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=1, fsdp=True, hooks=["quantise"])
    processes = started_in(2, "--config", recipe_of(plan, tmp_path / "recipe.json"))
    said = " ".join(" ".join(process.communicate()[1] for process in processes).split())
    assert {process.returncode for process in processes} == {2}
    assert "--hook quantise: under DistributedType.FSDP the weights are in pieces. Train without it." in said


@pytest.mark.slow
def test_two_processes_train_the_student_that_one_does(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    usual: dict[str, Any] = {"student": str(small_student), "max_steps": 3, "holdout": 0, "precision": "float32"}
    usual["batch_size"] = 4
    for hook in ("quantise:bits=4", "low_rank:rank=4"):
        one, two = (tmp_path / hook.partition(":")[0] / name for name in ("one", "two"))
        train(plan_of(cache, one, **usual, accumulate=2, hooks=[hook]))
        train_in_two(recipe_of(plan_of(cache, two, **usual, hooks=[hook]), tmp_path / "recipe.json"))
        assert curve(two) == pytest.approx(curve(one), rel=1e-4)
        for value in linear_weights(two).values():
            few = most_values({"one": value}) <= 16
            assert few if "quantise" in hook else torch.linalg.matrix_rank(value, rtol=1e-4) == 4


def test_the_summary_says_what_was_asked_for(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    section = {"name": "quantise", "options": {"bits": 4, "targets": ["q_proj", "k_proj"]}}
    plan = plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=1, holdout=0, hooks=[section])
    train(plan)
    kept = json.loads((tmp_path / "out" / "logitstore.json").read_text())["plan"]["hooks"]
    assert kept == ["quantise:bits=4,targets=q_proj,k_proj"]


def test_a_fresh_student_is_trained_quantised(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    train(plan_of(cache, tmp_path / "out", layers=1, max_steps=1, holdout=0, hooks=["quantise:bits=2"]))
    assert most_values(linear_weights(tmp_path / "out")) <= 4
