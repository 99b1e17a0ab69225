"""A run whose numbers are no longer finite stops, and saves nothing of that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.errors import ModelError
from logitstore.train.loop.checkpoints import checkpoints
from logitstore.train.loop.divergence import LossWatch, are_finite
from logitstore.train.train import train
from tests.parts.commands import Command
from tests.parts.training import plan_of

WILD: dict[str, Any] = {
    "learning_rate": 1e30,
    "scheduler": "constant",
    "warmup": 0.0,
    "precision": "float32",
    "trainer": {"optim": "sgd", "max_grad_norm": 0.0},
}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_diverges_stops_at_that_step_and_keeps_what_was_before(
    accumulate: int, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """No line of the log is due before step 10. No checkpoint is written before the loss is bad."""
    options = WILD | {"student": str(small_student), "max_steps": 9, "save_every": 9, "accumulate": accumulate}
    with pytest.raises(
        ModelError, match=r"the loss of step 2 of 9 is no finite number\. .* no checkpoint is of before"
    ):
        train(plan_of(cache, tmp_path, **options))
    assert checkpoints(tmp_path) == []
    assert not (tmp_path / "model.safetensors").exists()
    assert "figures" not in json.loads((tmp_path / "logitstore.json").read_text())


def test_the_last_good_checkpoint_stays_and_can_be_gone_on_from(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """The weights after step 1 are finite, and the loss of step 2 is not."""
    out = tmp_path / "out"
    with pytest.raises(ModelError) as refused:
        train(plan_of(cache, out, **WILD | {"student": str(small_student), "max_steps": 6, "save_every": 1}))
    (kept,) = checkpoints(out)
    assert f"{kept.name} is of before, and --student {kept} with another --out" in str(refused.value)
    weights = AutoModelForCausalLM.from_pretrained(kept).state_dict()
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_weights_that_go_bad_in_the_last_step_are_not_saved(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """After a single step no loss tells it."""
    recipe = tmp_path / "train.yaml"
    recipe.write_text("train: {trainer: {optim: rmsprop}}\n")
    options: list[object] = [
        "--max-steps",
        1,
        "--learning-rate",
        3e38,
        "--scheduler",
        "constant",
        "--warmup",
        0,
        "--holdout",
        0,
    ]
    options += ["--student", small_student, "--out", tmp_path / "out", "--config", recipe]
    assert command("train", cache.path, *options) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"error: --out {tmp_path / 'out'}: the training has diverged: ")
    assert "after step 1 of 1, weights are no finite numbers" in line
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert checkpoints(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("losses", "tolerated", "step"),
    [
        ([1.0, 2.0, 3.0], 0, None),
        ([1.0, float("nan"), 1.0], 0, 2),
        ([float("inf"), 1.0, float("nan")], 0, 1),
        ([float("inf"), 1.0, float("nan")], 1, None),
        ([float("inf"), 1.0, float("nan"), float("nan")], 1, 3),
        ([float("nan"), float("nan"), 1.0, float("nan"), float("nan")], 1, 1),
        ([], 0, None),
    ],
)
def test_the_first_step_of_too_many_bad_losses_is_named(losses: list[float], tolerated: int, step: int | None) -> None:
    watch = LossWatch(tolerated)
    for number, loss in enumerate(losses, 1):
        watch.see(torch.tensor(loss), number)
    assert watch.diverged_at(lambda seen: seen) == step
    fine = LossWatch(tolerated)
    fine.see(torch.tensor(1.0), 1)
    assert watch.diverged_at(lambda seen: torch.cat([torch.tensor([0, 0, 0]), seen])) == step


def test_a_weight_that_is_no_number_is_found_among_the_others() -> None:
    weights = [torch.zeros(3), torch.zeros(0), torch.zeros(2, 2)]
    assert are_finite(weights).item() == 1
    weights[2][1, 0] = torch.nan
    assert are_finite(weights).item() == 0
    assert are_finite([]).item() == 1
