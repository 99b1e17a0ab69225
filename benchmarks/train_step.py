"""Measure a training step from the cache beside the same step on gold tokens only: `python benchmarks/train_step.py`.

The demo's student has 6 of the 30 layers of SmolLM2-135M-Instruct, in bfloat16; batches are two windows of 256 tokens. All
runs go through `logitstore.train.train.train` on the same text in the same order, except the step with the live teacher, which
goes through the same trainer with targets made on the spot. Runs take turns; a step is timed from the end of the step
before.
"""

from __future__ import annotations

import shutil
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

import demo
from bench import at_most, found, save
from live import LiveTrainer
from logitstore.core.progress import Step
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.models.load import load_config, load_weights
from logitstore.settings.dump import DumpSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.train import train

FOLDER = Path("build/train_step")
STEPS, ROUNDS, SKIPPED = 10, 5, 2
DOCUMENTS = 8


def main() -> None:
    torch.set_num_threads(2)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    demo.FOLDER, demo.TEXTS, demo.DOCUMENTS = FOLDER, FOLDER / "texts.jsonl", DOCUMENTS
    demo.write_texts()
    teacher = demo.find_teacher()
    for preset in ("small", "topk"):
        dump(plan_of(teacher, preset))
    demo.STUDENTS = {"6 layers": "student-6"}
    demo.cut_students(teacher)
    ways = {
        "gold tokens only": lambda: steps_of("topk", alpha=0.0),
        "prior": lambda: steps_of("topk", alpha=0.5),
        "sketch": lambda: steps_of("small", alpha=0.5),
        "sketch, T = 2": lambda: steps_of("small", alpha=1.0, temperature=2.0),
        "sketch, no thread": lambda: steps_of("small", alpha=0.5, workers=0),
        "live": LiveSteps(teacher),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            seconds[name].append(statistics.median(way()))
    gold = seconds["gold tokens only"]
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, gold, strict=True)) for name, times in seconds.items()
    }
    save(
        "train_step",
        [
            found("a step on gold tokens only", statistics.median(gold), "s"),
            at_most("a step from the cache, prior tail, to one on gold tokens", 1.03, ratios["prior"]),
            at_most("a step from the cache, sketch tail, to one on gold tokens", 1.15, ratios["sketch"]),
            found("a step from the cache, sketch tail at T = 2, to one on gold tokens", ratios["sketch, T = 2"]),
            at_most(
                "a step with a thread that reads ahead, to one without",
                1.0,
                ratios["sketch"] / ratios["sketch, no thread"],
            ),
            found("a step with the live teacher to one on gold tokens", ratios["live"]),
            found(
                "a step from the cache, sketch tail, to one with the live teacher", ratios["sketch"] / ratios["live"]
            ),
            at_most("time a step waits for the loader", 0.01, waiting_share(statistics.median(gold)), "of a step"),
        ],
        steps=STEPS - SKIPPED,
        rounds=ROUNDS,
    )


def plan_of(teacher: str, preset: str) -> DumpSettings:
    return DumpSettings(
        teacher=teacher,
        data=str(demo.TEXTS),
        out=FOLDER / preset,
        preset=preset,
        max_length=256,
        overlap=32,
        fidelity_rows=0,
    )


def steps_of(preset: str, alpha: float, temperature: float = 1.0, workers: int = 1) -> list[float]:
    """Return the seconds of the steps of one short run, without the first steps."""
    ends: list[float] = []

    def note(step: Step) -> None:
        if step.stage == "train":
            ends.append(time.perf_counter())

    out = FOLDER / "trained"
    train(
        TrainSettings(
            cache=FOLDER / preset,
            out=out,
            student=str(FOLDER / "student-6"),
            alpha=alpha,
            temperature=temperature,
            precision="bfloat16",
            batch_size=2,
            max_steps=STEPS,
            workers=workers,
            holdout=0,
            device="cpu",
            trainer={"save_strategy": "no"},
        ),
        note,
    )
    shutil.rmtree(out)
    return differences(ends)


def differences(ends: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(ends)][SKIPPED - 1 :]


class LiveSteps:
    """Time steps with the live teacher, which is loaded once."""

    def __init__(self, teacher: str) -> None:
        reference = ModelRef.parse(teacher)
        self._teacher = CausalTeacher(reference, load_config(reference), "bfloat16", "cpu")

    def __call__(self) -> list[float]:
        reference = ModelRef.parse(str(FOLDER / "student-6"))
        ends: list[float] = []

        class Clock(LiveTrainer):
            def training_step(self, *arguments: Any, **options: Any) -> Any:
                ends.append(time.perf_counter())
                return super().training_step(*arguments, **options)

        trainer = Clock(
            teacher=self._teacher,
            learners=[
                Learner(
                    student=load_weights(reference, load_config(reference), torch.float32),
                    criterion=Criterion.mixed(),
                    autocast=torch.bfloat16,
                )
            ],
            args=TrainingArguments(
                output_dir=str(FOLDER / "live"), use_cpu=True, report_to="none", disable_tqdm=True, max_steps=STEPS,
                save_strategy="no", learning_rate=5e-4,
            ),
            train_loader=Loader(Cache(FOLDER / "topk"), batch_size=2),
            held_out_loader=None,
        )  # fmt: skip
        trainer.train()
        return differences(ends)


def waiting_share(step: float) -> float:
    """Return the median share of a step that `Loader.at` takes where the batch was prepared meanwhile."""
    loader = Loader(Cache(FOLDER / "small"), batch_size=2)
    waits = []
    for number in range(min(len(loader), 20)):
        began = time.perf_counter()
        loader.at(0, number)
        waits.append(time.perf_counter() - began)
        time.sleep(0.05)
    return statistics.median(waits[1:]) / step


if __name__ == "__main__":
    main()
