"""Compare students whose weights follow a rule with students that are free, on MNIST's digits with a real teacher (digits.py).

A dense student learns from replayed views. Of it come a sparse student, in which the smallest three quarters of each layer's
weights are 0, and one with 2 bits a weight. Each is judged as it is made, and after it has learned on with its rule; beside
them stand the dense student that has learned on as long, and the sparse one whose zeros training fills. All are judged on
2,000 images that no model learned from.
"""

from __future__ import annotations

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForImageClassification

from bench import at_least, console, found, save
from digits import AUGMENT, FOLDER, plan_of, resnet, teach, write_images
from digits import save as save_model
from logitstore.dump.dump import dump
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.students.hooks.quantise import Quantise
from logitstore.train.students.zeros import share_of_zeros
from logitstore.train.train import train

TEACHER_EPOCHS, EPOCHS, MORE = 8, 20, 10
SEEDS = (0, 1, 2)
SHARE = 0.75
"""Share of the weights of a layer that are 0 in the sparse student."""

DENSE, LONGER = "dense", "dense, learned on"
CUT, KEPT, FILLED = "sparse, as made", "sparse, learned on, zeros kept", "sparse, learned on, zeros not kept"
ROUNDED, TRAINED = "2 bits, as made", "2 bits, learned on"


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    write_images()
    teach(TEACHER_EPOCHS)
    cache = dump(plan_of("few", FOLDER / "views", views=EPOCHS, augment=AUGMENT))
    test = dump(plan_of("test", FOLDER / "test-views"))
    students = [line for seed in SEEDS for line in of_seed(cache, test, seed)]
    of_teacher = judged(test, FOLDER / "teacher")
    save("hooks", lines_of(students), students=students, teacher=of_teacher, epochs=EPOCHS, more=MORE, share=SHARE)


def of_seed(cache: Cache, test: Cache, seed: int) -> list[dict[str, Any]]:
    """Train and judge the students of one seed."""
    folder = FOLDER / f"seed-{seed}"
    fresh, cut, rounded = folder / "fresh", folder / "cut", folder / "rounded"
    save_model(resnet(seed, 16, 32, 64), fresh)
    dense = learned(cache, fresh, folder / "dense", seed, EPOCHS)
    model = loaded(dense)
    with torch.no_grad():
        for weight in inner(model):
            smallest = weight.abs().flatten().kthvalue(int(SHARE * weight.numel())).values
            weight.masked_fill_(weight.abs() <= smallest, 0.0)
    save_model(model, cut)
    model = loaded(dense)
    Quantise(bits=2).prepare(model)
    save_model(model, rounded)
    made = {
        DENSE: dense,
        LONGER: learned(cache, dense, folder / "longer", seed, MORE),
        CUT: cut,
        KEPT: learned(cache, cut, folder / "kept", seed, MORE, keep_zeros=True),
        FILLED: learned(cache, cut, folder / "filled", seed, MORE, keep_zeros=False),
        ROUNDED: rounded,
        TRAINED: learned(cache, dense, folder / "trained", seed, MORE, hooks=["quantise:bits=2"]),
    }
    lines = []
    for way, place in made.items():
        line = {"way": way, "seed": seed, **judged(test, place), "zeros": round(share_of_zeros(loaded(place)), 4)}
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
        lines.append(line)
    return lines


def inner(model: nn.Module) -> list[nn.Parameter]:
    """Return the weights that are cut: those of all layers but the first and the last."""
    found = [weight for name, weight in model.named_parameters() if weight.dim() > 1]
    return found[1:-1]


def loaded(folder: Path) -> Any:
    return AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32)


def learned(cache: Cache, student: Path, out: Path, seed: int, epochs: int, **options: Any) -> Path:
    """Train a student; return where it lies."""
    usual: dict[str, Any] = {
        "batch_size": 50,
        "learning_rate": 2e-3,
        "weight_decay": 0.01,
        "holdout": 0,
        "device": "cpu",
        "precision": "float32",
        "keep_checkpoints": 0,
    }
    plan = {"cache": cache.path, "student": str(student), "out": out, "seed": seed, "epochs": epochs}
    train(TrainSettings(**plan | usual | options))
    return out


def judged(test: Cache, student: Path) -> dict[str, float]:
    """Return how good a model is on the images that no model learned from."""
    plan: dict[str, Any] = {"cache": test.path, "student": str(student), "samples": "all", "dtype": "float32"}
    figures = evaluate(EvaluateSettings(**plan, device="cpu", batch_size=200))
    return {name: round(getattr(figures, name), 5) for name in ("accuracy", "kl", "agreement")}


def lines_of(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of all students together."""

    def gap(name: str, of: str, to: str) -> float:
        values = [[line[name] for line in students if line["way"] == way] for way in (of, to)]
        return float(statistics.mean(a - b for a, b in zip(*values, strict=True)))

    lost = statistics.mean(line["zeros"] for line in students if line["way"] == FILLED)
    return [
        at_least("top-1 of a sparse student, zeros kept, over the dense one that learned as long", -1,
                 100 * gap("accuracy", KEPT, LONGER), "points"),
        found("top-1 of a sparse student, zeros kept, over it as it was made", 100 * gap("accuracy", KEPT, CUT), "points"),
        found("top-1 of a sparse student, zeros kept, over it where training fills them", 100 * gap("accuracy", KEPT, FILLED),
              "points"),
        found("share of zeros that is left where training fills them", lost, "of 1"),
        found("top-1 of a student of 2 bits, learned on, over it as it was made", 100 * gap("accuracy", TRAINED, ROUNDED),
              "points"),
        found("top-1 of a student of 2 bits over the dense one that learned as long", 100 * gap("accuracy", TRAINED, LONGER),
              "points"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
