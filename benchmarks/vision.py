"""Compare students of images that learn from the teacher in the loop, replayed views, answers about other views, and
labels.

The data are MNIST's digits with a real teacher, see digits.py. A small student learns from 50 images of each digit for 40
epochs, each with its own views. It is judged on 2,000 images that no model learned from, against their labels and the
teacher's answers. All ways go through the same trainer over the same images in the same order, and all but two over the
same crops: one way has ten of the forty views, one is shown other crops than its answers are about. The script also
measures bytes of a view of 21,841 classes beside TinyViT's, and reading 200,000 of them in random order; see view_rows.py.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainingArguments

import view_rows
from bench import at_least, at_most, console, found, ratio, save
from digits import AUGMENT, FOLDER, plan_of, resnet, teach, write_images
from live import LiveTrainer
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.dump.teachers.image_classifier import ImageTeacher
from logitstore.image.pictures import Pictures, pictures_of
from logitstore.image.view import View
from logitstore.models.load import load_config
from logitstore.store.cache import Cache
from logitstore.train.learner import Learner
from logitstore.train.loader.loader import Loader, evaluation_loader
from logitstore.train.loader.views.order import view_order
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.trainer import DistillTrainer

EPOCHS, BATCH, RATE = 40, 50, 2e-3
SEEDS = (0, 1, 2)
TIMED_EPOCHS, TIMED_ROUNDS = 3, 5

LIVE, REPLAYED, AGAIN, OTHERS, LABELS = (
    "the teacher in the loop",
    "views replayed",
    f"{EPOCHS // 4} views replayed, each 4 times",
    "answers about other views than are shown",
    "labels only",
)


def main() -> None:
    torch.set_num_threads(2)
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_images()
    teach()
    cache = dump(plan_of("few", FOLDER / "views", views=EPOCHS, augment=AUGMENT))
    test = dump(plan_of("test", FOLDER / "test-views"))
    bench = Bench(cache, test, ImageTeacher(ModelRef(name=str(FOLDER / "teacher")), config(), "float32", "cpu"))
    students = [bench.run(way, seed) for seed in SEEDS for way in (LIVE, REPLAYED, AGAIN, OTHERS, LABELS)]
    lines = [*bench.lines_of(students), *view_rows.storage(), *view_rows.reading()]
    save("vision", lines, students=students, images=cache.manifest.samples, epochs=EPOCHS, teacher=bench.of_teacher())


def config() -> Any:
    return load_config(ModelRef(name=str(FOLDER / "teacher")))


class OtherViews(Pictures):
    """Make the classic mistake: show the student newly drawn views, not the views that the teacher answered about."""

    def batch(self, views: Iterable[View]) -> tuple[Tensor, list[View]]:
        return super().batch([replace(view, digest=0) for view in views])


@dataclass(frozen=True)
class Bench:
    """A bench holds the cache to learn from, the cache to be judged on, and their teacher."""

    cache: Cache
    test: Cache
    teacher: ImageTeacher

    def trainer(self, way: str, seed: int, epochs: int) -> DistillTrainer:
        """Return the trainer of a fresh student."""
        images = np.arange(self.cache.manifest.samples)
        order = view_order(self.cache, images, f"0-{EPOCHS // 4 - 1}" if way == AGAIN else None, 1, seed)
        pictures = pictures_of(self.cache)
        if way == OTHERS:
            pictures = OtherViews(pictures.images, pictures.info.model_copy(update={"seed": 1}))
        loader = Loader(
            self.cache, order=order, epoch_samples=order.epoch_samples, batch_size=BATCH, pictures=pictures, seed=seed
        )
        student = resnet(seed, 16, 32, 64)
        kind = partial(LiveTrainer, teacher=self.teacher) if way == LIVE else DistillTrainer
        return kind(
            learners=[Learner(student=student, criterion=Criterion.mixed(alpha=0.0 if way == LABELS else 1.0))],
            args=TrainingArguments(
                output_dir=str(FOLDER / "trained"), use_cpu=True, report_to="none", disable_tqdm=True, save_strategy="no",
                num_train_epochs=epochs, learning_rate=RATE, weight_decay=0.01, seed=seed, logging_strategy="no",
            ),
            train_loader=loader,
            held_out_loader=evaluation_loader(self.test, None, batch_size=200),
        )  # fmt: skip

    def run(self, way: str, seed: int) -> dict[str, Any]:
        """Train a student and judge it."""
        trainer = self.trainer(way, seed, EPOCHS)
        trainer.train()
        figures = trainer.evaluate()
        line = {"way": way, "seed": seed}
        line |= {
            name: round(figures[f"eval_{name}"], 5) for name in ("accuracy", "kl", "agreement", "calibration_error")
        }
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
        return line

    def of_teacher(self) -> dict[str, float]:
        """Return how good the teacher is on the same images."""
        with torch.inference_mode():
            loader = evaluation_loader(self.test, None, batch_size=200)
            right = [
                (self.teacher.logits(batch.model_inputs())[:, 0].argmax(-1) == batch.gold).float().mean()
                for batch in loader
            ]
        return {"accuracy": float(torch.stack(right).mean())}

    def lines_of(self, students: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the lines of all students together, and of the cost of a step."""

        def of(way: str, name: str) -> list[float]:
            return [line[name] for line in students if line["way"] == way]

        def gap(name: str, way: str) -> float:
            return statistics.mean(a - b for a, b in zip(of(REPLAYED, name), of(way, name), strict=True))

        spread = {name: statistics.stdev(of(LIVE, name)) for name in ("accuracy", "kl")}
        seconds = self.steps()
        return [
            at_most("top-1 of the teacher in the loop over that of replayed views, in deviations of the former over seeds",
                    1, -gap("accuracy", LIVE) / spread["accuracy"], "deviations"),
            at_most("KL of replayed views over that of the teacher in the loop, in deviations of the latter over seeds",
                    1, gap("kl", LIVE) / spread["kl"], "deviations"),
            at_least("top-1 of replayed views over that of answers about other views", 0,
                     100 * gap("accuracy", OTHERS), "points"),
            at_most("KL of replayed views to that of answers about other views", 1,
                    statistics.mean(of(REPLAYED, "kl")) / statistics.mean(of(OTHERS, "kl"))),
            at_least("top-1 of replayed views over that of labels only", 0, 100 * gap("accuracy", LABELS), "points"),
            found("a step on replayed views", statistics.median(seconds[REPLAYED]), "s"),
            found("a step on replayed views to one with the teacher in the loop", ratio(seconds, REPLAYED, LIVE)),
            found("a step on replayed views to one on labels only", ratio(seconds, REPLAYED, LABELS)),
        ]  # fmt: skip

    def steps(self) -> dict[str, list[float]]:
        """Return the seconds of a step in every round; the ways take turns."""
        seconds: dict[str, list[float]] = {LIVE: [], REPLAYED: [], LABELS: []}
        for _ in range(TIMED_ROUNDS):
            for way, means in seconds.items():
                trainer, ends = self.trainer(way, 0, TIMED_EPOCHS), list[float]()
                inner = trainer.training_step

                def timed(*arguments: Any, inner: Any = inner, ends: list[float] = ends, **options: Any) -> Any:
                    ends.append(time.perf_counter())
                    return inner(*arguments, **options)

                trainer.training_step = timed  # type: ignore[method-assign]
                trainer.train()
                means.append(statistics.mean(after - before for before, after in pairwise(ends[5:])))
        return seconds


if __name__ == "__main__":
    main()
