"""Measure and check everything that runs on a GPU, in at most eight minutes: `python benchmarks/gpu.py`, or `make bench-gpu`.

The models have random weights in the shape of a teacher of 1.7 billion and a student of 0.5 billion parameters, over 151,936
tokens, and the texts are random: speed and memory depend on neither. Each block has a share of the time, and a block that
runs out of it keeps what it has found. Exit code 0, 1 if a check failed or a block did not run, 2 without a GPU.

`--device cpu --small` runs all of it with tiny sizes, to try the script; its figures mean nothing and are not kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch

from bench import RESULTS, console
from card import GIB, Budget, Card, work_folder
from gpu_checks import Check, all_checks, say, tried
from gpu_dump import SIDES, dump_lines, dumped_alike, forget_tails, tokens_for
from gpu_train import SKIPPED, STEPS, Visits, loader_lines, loss_lines, step_lines, trained_alike
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.store.cache import Cache
from machine import describe_run
from random_models import Shapes, make_model, make_teacher, real_shapes, small_shapes

SECONDS = 480.0
SHARES = {"checks": 110.0, "dump": 150.0, "losses": 25.0, "loader": 25.0, "steps": 130.0}
"""Seconds of each block. The sum leaves time for loading, and for making the models."""

LAST_SECONDS = 8.0
"""So long before the end the script is stopped, whatever it does, and keeps what it has."""

NO_GPU = (
    "no CUDA device: PyTorch {version} finds none. Install a CUDA build of PyTorch into the environment and run this where "
    "there is a GPU (docs/benchmarks.md), or try the script with --device cpu --small."
)


@dataclass
class Results:
    """What was found so far.

    Attributes:
        checks: comparisons with the CPU.
        lines: figures.
        broken: blocks that did not end, with the reason.
        seconds: of each block.
    """

    checks: list[Check] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.is_met]

    @property
    def exit_code(self) -> int:
        return 1 if self.failed or self.broken else 0

    def save(self, path: Path, card: Card, shapes: Shapes) -> None:
        """Write the results file."""
        content = describe_run() | {
            "card": card.about(),
            "teacher_layers": shapes.teacher.num_hidden_layers,
            "batch_tokens": shapes.batch_tokens,
            "seconds": self.seconds,
            "checks": len(self.checks),
            "failed": [vars(check) for check in self.failed],
            "broken": self.broken,
            "lines": self.lines,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


@dataclass
class Run:
    """One run of the script: the device, the time, and what the blocks hand to each other."""

    card: Card
    budget: Budget
    folder: Path
    results: Results = field(default_factory=Results)
    caches: dict[str, Cache] = field(default_factory=dict)
    teacher: CausalTeacher | None = None

    def __post_init__(self) -> None:
        layers = 28 if self.card.is_small or self.card.free() > 14 * GIB else 8
        self.shapes = small_shapes() if self.card.is_small else real_shapes(layers, tokens_for(self.card))

    def block(self, name: str, work: Callable[[], None]) -> None:
        """Run a block; what goes wrong in it is kept, and the next one runs."""
        began = self.budget.used
        self.budget.begin(SHARES[name])
        console.rule(f"{name}, after {began:.0f} s")
        try:
            work()
        except Exception as error:
            console.print(traceback.format_exc(), markup=False, highlight=False)
            self.results.broken[name] = f"{type(error).__name__}: {error}"[:500]
        self.results.seconds[name] = round(self.budget.used - began, 1)

    def check(self) -> None:
        """Compare what the device computes with what the CPU computes."""
        results, small = self.results, small_shapes()
        folder = self.folder / "alike"
        results.checks += tried("small dumps", dumped_alike, self.card, small, folder)
        own = partial(Cache, folder / SIDES[0] / "small")
        results.checks += tried("steps", trained_alike, self.card, small, own, self.folder / "student")
        for check in results.failed:
            say(check)
        all_checks(self.card, lambda: self.budget.left > 0, results.checks)
        console.print(f"{len(results.checks)} checks, {len(results.failed)} failed", highlight=False)

    def dump(self) -> None:
        """Measure dumps; keep the teacher and the caches."""
        dtype = "float32" if self.card.is_small else "bfloat16"
        self.teacher = make_teacher(self.shapes.teacher, dtype, self.card.device)
        self.caches = dump_lines(
            self.card, self.budget, self.shapes, self.teacher, dtype, self.folder / "caches", self.results.lines
        )

    def losses(self) -> None:
        """Measure the loss alone."""
        loss_lines(self.card, self.budget, self.results.lines)
        self.card.free()

    def load(self) -> None:
        """Measure the loader."""
        loader_lines(self.card, self.budget, self.shapes, self.caches, self.results.lines)

    def steps(self) -> None:
        """Measure steps of a student."""
        if not self.caches:
            raise RuntimeError("there are no caches to learn from, because the block before did not end")
        forget_tails()
        self.card.free()
        student = make_model(self.shapes.student, torch.float32, self.card.device)
        count = (3, 1) if self.card.is_small else (STEPS, SKIPPED)
        visits = Visits(self.card, self.shapes, student, self.teacher, self.folder / "student", count)
        step_lines(self.card, self.budget, visits, self.caches, self.results.lines)


def main(arguments: list[str]) -> int:
    """Run all blocks; return the exit code."""
    parser = argparse.ArgumentParser(description="Check and measure on a GPU.")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="when the script ends")
    parser.add_argument("--json", type=Path, help="where the results go")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(NO_GPU.format(version=torch.__version__), file=sys.stderr)
        return 2
    is_whole = given.device == "cuda" and not given.small
    path: Path | None = given.json or (RESULTS / "gpu.json" if is_whole else None)
    folder = work_folder(8 * GIB if is_whole else GIB)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = Run(Card(torch.device(given.device), given.small), Budget(given.seconds), folder)
    console.print(f"{run.card.about()}; caches in {folder}", highlight=False)

    def end(reason: str = "") -> int:
        if reason:
            run.results.broken["time"] = reason
        if path is not None:
            run.results.save(path, run.card, run.shapes)
        shutil.rmtree(folder, ignore_errors=True)
        return run.results.exit_code

    def stop() -> None:
        console.print(f"stopped after {run.budget.used:.0f} s; what was found is kept", highlight=False)
        os._exit(end("the script had no time to end"))

    guard = threading.Timer(max(given.seconds - LAST_SECONDS, 1.0), stop)
    guard.daemon = True
    guard.start()
    blocks = {
        "checks": run.check,
        "dump": run.dump,
        "loader": run.load,
        "losses": run.losses,
        "steps": run.steps,
    }
    try:
        for name, work in blocks.items():
            run.block(name, work)
    finally:
        guard.cancel()
        code = end()
    failed = run.results.failed
    console.print(
        f"{len(run.results.checks)} checks, {len(failed)} failed; {len(run.results.lines)} figures; "
        f"{len(run.results.broken)} blocks did not end; {run.budget.used:.0f} s"
        + (f"; results in {path}" if path else ""),
        highlight=False,
        soft_wrap=True,
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
