"""Optimizers and schedules are tried before any weights are loaded, and read all that they are given."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from logitstore.errors import BadInput
from logitstore.train.loop.optimizer import check_optimizer


def checked(tmp_path: Path, **given: Any) -> None:
    options = {
        "output_dir": str(tmp_path),
        "use_cpu": True,
        "report_to": "none",
        "eval_strategy": "steps",
        "eval_steps": 1,
    }
    check_optimizer(TrainingArguments(**options | given), given)


OF_TORCH = ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop")


@pytest.mark.parametrize("name", [each.value for each in OptimizerNames])
def test_every_optimizer_can_be_made_or_names_its_package_in_one_line(name: str, tmp_path: Path) -> None:
    if name in OF_TORCH:
        checked(tmp_path, optim=name)
        return
    with suppress(MadeAfterAll), pytest.raises(BadInput, match=r"^trainer: a package is missing: [^\n]*$"):
        _make(tmp_path, name)


class MadeAfterAll(Exception):
    """The package of an optimizer is installed here."""


def _make(tmp_path: Path, name: str) -> None:
    checked(tmp_path, optim=name)
    raise MadeAfterAll


NEEDED = {
    "cosine_with_min_lr": {"min_lr": 1e-5},
    "cosine_warmup_with_min_lr": {"min_lr": 1e-5},
    "warmup_stable_decay": {"num_decay_steps": 3},
}


@pytest.mark.parametrize("name", [each.value for each in SchedulerType])
def test_every_schedule_can_be_made_and_refuses_what_it_does_not_read(name: str, tmp_path: Path) -> None:
    checked(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=NEEDED.get(name, {}))
    with pytest.raises(
        BadInput, match=f"lr_scheduler_kwargs.*({name}|cannot be made)|{name} with the lr_scheduler_kwargs"
    ):
        checked(tmp_path, lr_scheduler_type=name, lr_scheduler_kwargs=NEEDED.get(name, {}) | {"wrong": 1})
    if name in NEEDED:
        with pytest.raises(BadInput, match=f"--scheduler {name} with the lr_scheduler_kwargs {{}} cannot be made"):
            checked(tmp_path, lr_scheduler_type=name)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"optim": "sgd", "adam_beta1": 0.5}, "'adam_beta1' has no effect: the optimizer sgd does not read it"),
        ({"optim": "adafactor", "adam_epsilon": 1e-9}, "'adam_epsilon' has no effect: the optimizer adafactor"),
        ({"optim": "rmsprop", "optim_target_modules": ["attn"]}, "'optim_target_modules' has no effect"),
        ({"optim_args": "momentum=0.9"}, "optim_args 'momentum=0.9' has no effect"),
        ({"optim": "sgd", "optim_args": "momentum=0.9,wrong=1"}, "optim_args 'wrong=1' has no effect"),
        ({"optim": "sgd", "optim_args": "momentum"}, "optim_args 'momentum': write NAME=VALUE"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "optim sgd cannot be made: could not convert"),
        ({"adam_beta1": 2.0}, "optim adamw_torch_fused cannot be made: Invalid beta parameter"),
        ({"lr_scheduler_kwargs": "num_cycles=2"}, "lr_scheduler_kwargs 'num_cycles=2': give values by name"),
    ],
)
def test_what_does_not_reach_the_optimizer_is_refused(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        checked(tmp_path, **given)
    assert text in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8},
        {"optim": "sgd", "optim_args": "momentum=0.9, nesterov=true"},
        {"adam_beta1": 0.5, "adam_beta2": 0.25, "adam_epsilon": 0.5},
        {"optim": "sgd", "optim_args": "momentum=0"},
        {"optim": "sgd", "optim_args": "momentum=0.5"},
        {"optim": "sgd", "optim_args": "momentum=0.25"},
        {"optim": "rmsprop", "optim_args": "alpha=0.9,centered=true"},
    ],
)
def test_what_reaches_it_is_taken_even_if_it_is_the_default(given: dict[str, Any], tmp_path: Path) -> None:
    checked(tmp_path, **given)
