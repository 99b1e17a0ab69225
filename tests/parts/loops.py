"""A run of `logitstore train`, for loops that must do the same, and what these loops are given for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import logitstore
from logitstore.train.train import train
from tests.parts.training import curve, plan_of

STEPS = 16
"""More than an epoch of the cache of the fixtures, so that an epoch ends within."""


RATE = 3e-3

ARGUMENTS: dict[str, Any] = {
    "max_steps": STEPS,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": RATE,
    "logging_steps": 1,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
    "seed": 0,
}
"""Training arguments of that run."""


@dataclass(frozen=True)
class Done:
    """What a run came to: its loss at every step, the student's weights, and the figures of the held-out samples."""

    losses: list[float]
    weights: dict[str, Tensor]
    figures: dict[str, float]


def trained(cache: logitstore.Cache, student: Path, out: Path, **changes: Any) -> Done:
    """Train with `logitstore train`, in steps of two batches of four."""
    usual: dict[str, Any] = {"batch_size": 4, "accumulate": 2, "max_steps": STEPS, "scheduler": "linear", "warmup": 0.0}
    usual |= {"student": str(student), "learning_rate": RATE, "alpha": 0.7}
    figures = train(plan_of(cache, out, **usual | changes))
    return Done(list(curve(out).values()), weights_of(loaded(out)), figures)


def loaded(folder: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def losses_of(history: list[dict[str, float]]) -> list[float]:
    """The loss at every step, as a Trainer keeps it in its log."""
    return [entry["loss"] for entry in history if "loss" in entry]


def falling(step: int) -> float:
    """The linear schedule of that run."""
    return max(0.0, (STEPS - step) / STEPS)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, **tolerance or {"rtol": 0, "atol": 0})
