"""Training plans, trainers, and the curve that a run logs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    TrainingArguments,
)

import logitstore
from logitstore.settings.train import TrainSettings
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.trainer import DistillTrainer
from tests.parts.warm import WarmProcess, free_port


def plan_of(cache: logitstore.Cache, out: Path, **changes: Any) -> TrainSettings:
    usual: dict[str, Any] = {
        "cache": cache.path,
        "out": out,
        "batch_size": 8,
        "learning_rate": 3e-3,
        "holdout": 0.2,
        "device": "cpu",
        "trainer": {"logging_steps": 1},
    }
    return TrainSettings(**usual | changes)


def curve(out: Path) -> dict[int, float]:
    """The training loss at every step, as logged."""
    log = json.loads((out / "logitstore.json").read_text())["log"]
    return {entry["step"]: entry["loss"] for entry in log if "loss" in entry}


def trainer_of(cache: logitstore.Cache, student: Path, tmp_path: Path, **changes: Any) -> DistillTrainer:
    pulls = {name: changes.pop(name) for name in ("alpha", "temperature") if name in changes}
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)
    loader = Loader(cache, batch_size=4)
    learner = Learner(student=model, criterion=Criterion.mixed(**pulls), **changes)
    return DistillTrainer(learners=[learner], args=arguments, train_loader=loader, held_out_loader=None)


def train_in_two(recipe: Path) -> None:
    """Train in two processes that know of each other by the variables that `torchrun` sets."""
    train_in(2, "--config", recipe)


def train_in(count: int, *arguments: object) -> list[tuple[str, str]]:
    """Train in some processes that know of each other by the variables that `torchrun` sets; return what each printed."""
    printed = []
    for process in started_in(count, *arguments):
        said = process.communicate()
        assert process.returncode == 0, said[1]
        printed.append(said)
    return printed


def started_in(count: int, *arguments: object, only: int | None = None, **variables: str) -> list[WarmProcess]:
    """Start such processes; one alone where it has arguments of its own."""
    world = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    return [
        WarmProcess("train", *arguments, **world | variables | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (range(count) if only is None else [only])
    ]


def recipe_of(plan: TrainSettings, path: Path) -> Path:
    """Write a plan as a recipe for the command line."""
    path.write_text(json.dumps({"train": plan.model_dump(mode="json", exclude_unset=True)}))
    return path
