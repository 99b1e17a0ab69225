"""Students whose matrices are products: the cut, the steps, what is saved, and resumed runs."""

from __future__ import annotations

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.errors import BadInput, ModelError
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.students.hooks.low_rank import LowRank
from logitstore.train.train import train
from tests.parts.training import curve, plan_of


class Product(nn.Module):
    """A linear layer that has the two factors."""

    def __init__(self, outer: torch.Tensor, inner: torch.Tensor) -> None:
        super().__init__()
        self.outer, self.inner = nn.Parameter(outer.clone()), nn.Parameter(inner.clone())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.inner.T @ self.outer.T


def test_the_error_is_that_of_the_best_matrices_of_the_rank(small_student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    before = copy.deepcopy(model)
    said = LowRank(rank=4, targets=("q_proj",)).prepare(model)
    lost = whole = 0.0
    model.requires_grad_(False)
    before.requires_grad_(False)
    for name, weight in before.named_parameters():
        if "q_proj" in name:
            values = torch.linalg.svdvals(weight.double())
            apart = (weight - model.get_parameter(name)).double().square().sum()
            torch.testing.assert_close(apart, values[4:].square().sum(), rtol=1e-4, atol=0)
            lost, whole = lost + float(apart), whole + float(values.square().sum())
            assert torch.linalg.matrix_rank(model.get_parameter(name), rtol=1e-4) == 4
        else:
            assert torch.equal(weight, model.get_parameter(name))
    assert re.search(r"with an error of ([\d.]+)%", said)[1] == f"{100 * (lost / whole) ** 0.5:.1f}"  # type: ignore[index]


def test_a_ratio_gives_each_matrix_its_rank(small_student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    hook = LowRank(ratio=3)
    said = hook.prepare(model)
    hook.check(model)
    factors = [outer.numel() + inner.numel() for outer, inner in zip(hook._outer_OR, hook._inner_RI, strict=True)]
    dense = [each.of(model).numel() for each in hook._all]
    assert all(few <= many / 3 for few, many in zip(factors, dense, strict=True))
    assert all(few > many / 6 for few, many in zip(factors, dense, strict=True))
    assert f"their factors have {sum(factors):,} weights, they have {sum(dense):,}" in said


@pytest.mark.parametrize("penalty", [0.0, 30.0])
def test_steps_are_those_of_a_student_that_has_the_factors(penalty: float, small_student: Path) -> None:
    ids = torch.arange(12)[None] + 3
    hooked = AutoModelForCausalLM.from_pretrained(small_student).double()
    plain, first = copy.deepcopy(hooked), copy.deepcopy(hooked)
    hook = LowRank(rank=6, penalty=penalty, distance=0.02 if penalty else 1e-3, targets=("up_proj",))
    hook.prepare(hooked)
    hook.modules().double()
    factors = list(zip(hook._trained, hook._outer_OR, hook._inner_RI, strict=True))
    for each, outer, inner in factors:
        hook.after_step(hooked)
        path = each.name.removesuffix(".weight").rpartition(".")
        setattr(plain.get_submodule(path[0]), path[2], Product(outer.detach(), inner.detach()))
    optimizers = [
        torch.optim.AdamW([*hooked.parameters(), *hook.modules().parameters()], lr=1e-2, weight_decay=0.1),
        torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0.1),
    ]
    for _ in range(4):
        hooked(input_ids=ids, labels=ids).loss.backward()
        hook.before_step(hooked)
        optimizers[0].step()
        hook.after_step(hooked)
        loss = plain(input_ids=ids, labels=ids).loss
        for each, _, _ in factors:
            own = plain.get_submodule(each.name.removesuffix(".weight"))
            apart = own.outer @ own.inner - first.get_parameter(each.name)
            loss = loss + penalty / len(factors) * (torch.linalg.vector_norm(apart, torch.inf) - 0.02) ** 2
        loss.backward()
        optimizers[1].step()
        for each in optimizers:
            each.zero_grad()
    for each, outer, inner in factors:
        other = plain.get_submodule(each.name.removesuffix(".weight"))
        torch.testing.assert_close(outer, other.outer, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(inner, other.inner, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(hooked(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-6, atol=1e-9)


def test_what_is_saved_has_the_rank_and_answers_as_in_training(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    plan = plan_of(
        cache, out, student=str(small_student), max_steps=4, precision="float32", hooks=["low_rank:rank=5,penalty=1"]
    )
    figures = train(plan)
    before, after = (load_file(folder / "model.safetensors") for folder in (small_student, out))
    chosen = [name for name in after if "_proj" in name and after[name].dim() == 2]
    assert chosen
    for name in chosen:
        assert torch.linalg.matrix_rank(after[name], rtol=1e-4) == min(5, *after[name].shape), name
        assert not torch.equal(after[name], before[name])
    judged = evaluate(EvaluateSettings(cache=cache.path, student=str(out), holdout=0.2, dtype="float32", device="cpu"))
    assert judged.kl == pytest.approx(figures["eval_kl"], rel=1e-6)
    assert curve(out)[4] < curve(out)[1]


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_a_resumed_run_ends_as_one_that_was_not_stopped(
    decay: float, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": str(small_student),
        "max_steps": 6,
        "save_every": 3,
        "keep_checkpoints": 2,
        "holdout": 0,
        "weight_decay": decay,
        "hooks": ["low_rank:rank=5"],
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(plan_of(cache, whole, **options))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)
    expected, found = (load_file(out / "model.safetensors") for out in (whole, stopped))
    assert [name for name, value in expected.items() if not torch.equal(found[name], value)] == []


def test_a_weight_that_is_frozen_is_cut_and_stays(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"freeze": ["*q_proj*"], "hooks": ["low_rank:rank=3,targets=q_proj"], "max_steps": 2}
    train(plan_of(cache, out, student=str(small_student), holdout=0, **options))
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    LowRank(rank=3, targets=("q_proj",)).prepare(model)
    saved = load_file(out / "model.safetensors")
    for name, weight in model.named_parameters():
        if "q_proj" in name:
            assert torch.equal(saved[name], weight)


def test_a_rank_that_is_lost_or_changes_nothing_is_refused(small_student: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32)
    with pytest.raises(BadInput, match=r"have rank .* at most, so nothing would change"):
        LowRank(rank=4096).prepare(model)
    hook = LowRank(rank=2)
    hook.prepare(model)
    hook.check(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name:
                weight += torch.randn_like(weight)
    with pytest.raises(ModelError, match=r"hook low_rank: .*q_proj.weight has not the rank 2 any more"):
        hook.check(model)
