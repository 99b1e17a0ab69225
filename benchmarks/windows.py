"""Measure what an order by windows of parts costs a student: `python benchmarks/windows.py`. With `--steps 4` it shows that it
works, and writes no results.

Teacher: SmolLM2-135M-Instruct. Text: the Python language reference, whose windows of tokens lie in parts of two, in the order
of the documents; so parts, and parts that lie beside each other, differ as much as text can. Student: a fresh one of two
layers. Every run sees the same samples as often, from the same weights for a seed; only their order differs: all mixed, or
by windows of 1, 4 and 16 parts. Students are judged on held-out documents. The cache stays in build/windows for the next time.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from statistics import mean
from typing import Any

import torch

import demo
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.train import train
from machine import describe_run

RESULTS = Path(__file__).parent / "results" / "windows.json"
FOLDER = Path(__file__).parent.parent / "build" / "windows"
SAMPLES_PER_PART, MAX_LENGTH, EPOCHS = 2, 128, 2.0
WINDOWS = (None, 1, 4, 16)
SEEDS = (0, 1, 2)
STUDENT = {"layers": 2, "hidden_size": 64, "intermediate_size": 192, "heads": 4, "kv_heads": 2}
TRAINING = {"batch_size": 2, "learning_rate": 3e-3, "holdout": 0.1, "evaluate_every": 1_000_000, "device": "cpu"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=-1, help="optimizer steps of a run; by default two epochs")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    cache = made_cache()
    runs: list[dict[str, Any]] = []
    for seed in SEEDS:
        for window_parts in WINDOWS:
            runs.append(measured(cache, window_parts, seed, steps))
            sys.stdout.write(f"{json.dumps(runs[-1])}\n")
            sys.stdout.flush()
    lines = compared(runs)
    sys.stdout.write(f"{json.dumps(lines, indent=1)}\n")
    if steps > 0:
        return
    size = {
        "parts": cache.manifest.parts,
        "samples": len(cache),
        "samples_per_part": SAMPLES_PER_PART,
        "rows": cache.rows,
        "epochs": EPOCHS,
        "student": STUDENT,
        "training": TRAINING,
    }
    RESULTS.write_text(json.dumps(describe_run() | {"size": size, "lines": lines, "runs": runs}, indent=1) + "\n")


def made_cache() -> Cache:
    """Return the cache of many small parts; the teacher runs where some are missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo.TEXTS = FOLDER / "texts.jsonl"
    demo.write_texts()
    settings = DumpSettings(
        teacher=demo.find_teacher(),
        data=str(demo.TEXTS),
        out=FOLDER / "cache",
        max_length=MAX_LENGTH,
        samples_per_part=SAMPLES_PER_PART,
        device="cpu",
    )
    return dump(settings)


def measured(cache: Cache, window_parts: int | None, seed: int, steps: int) -> dict[str, Any]:
    """Train a student; return its figures on the held-out documents, and the seconds of the run."""
    out = FOLDER / "student"
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    settings = TrainSettings(
        cache=cache.path,
        out=out,
        window_parts=window_parts,
        seed=seed,
        epochs=EPOCHS,
        max_steps=steps,
        **STUDENT,
        **TRAINING,
    )
    train(settings)
    figures = json.loads((out / "logitstore.json").read_text())["figures"]
    found = {name: round(figures[f"eval_{name}"], 5) for name in ("kl", "cross_entropy")}
    return {"window_parts": window_parts, "seed": seed, **found, "seconds": round(time.monotonic() - began, 1)}


def compared(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a line for each size of windows: its mean KL over the seeds less that of the full mix. The target is the spread
    of the full mix over the seeds, from its least to its largest KL."""
    kl = {window_parts: [run["kl"] for run in runs if run["window_parts"] == window_parts] for window_parts in WINDOWS}
    spread = round(max(kl[None]) - min(kl[None]), 5)
    lines = []
    for window_parts in WINDOWS[1:]:
        more = round(mean(kl[window_parts]) - mean(kl[None]), 5)
        lines.append(
            {
                "name": f"held-out KL with windows of {window_parts} parts, less that of all samples mixed",
                "target": f"<= {spread}",
                "measured": more,
                "unit": "nats",
                "met": more <= spread,
            }
        )
    return lines


if __name__ == "__main__":
    main()
