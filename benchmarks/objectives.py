"""Measure every objective on one cache: whether the loss falls, what a step costs, and how good the student becomes.

SmolLM2-135M-Instruct answers in bfloat16 once, with logits and features. The student is a fresh one of three layers, half
as wide, in bfloat16. Each line is a run of 200 steps over the same samples in the same order, two windows of at most 128
tokens each, in a process of its own, on one core, which nothing else should use. Time and peak memory of a step are given
beside those of a run on gold tokens alone. One run follows another, so the figures contain changes of the machine's speed.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from bench import console, resident, save
from demo import find_teacher
from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.students.build import fresh
from logitstore.train.train import train

FOLDER = Path("build/objectives")
STEPS = 200
SKIPPED = 20
"""Number of steps at the start that are not timed."""

ENDS = 20
"""Number of steps at either end whose losses are averaged."""

LAYERS, TEACHER_LAYERS = 3, 30
SHAPE = {
    "num_hidden_layers": LAYERS,
    "hidden_size": 288,
    "intermediate_size": 768,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}

GOLD = "gold tokens only"
RUNS: dict[str, dict[str, Any]] = {GOLD: {"alpha": 0.0}} | {
    name: {"objective": name}
    for name in (
        "forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "total_variation", "skew_forward_kl",
        "skew_reverse_kl", "adaptive_kl", "balanced_kl", "taid", "dkd", "one_for_all", "dist", "plackett_luce",
        "standardised_kl", "lumped_kl", "renormalised_kl",
    )
}  # fmt: skip
RUNS |= {
    f"{name}, beside forward_kl": {"terms": [{"name": name, "weight": weight, "options": options}]}
    for name, weight, options in (
        ("sinkhorn", 0.1, {}),
        ("match", 1.0, {"layers": "last-1"}),
        ("square_head", 1.0, {"layers": "uniform"}),
        ("norm_direction", 1.0, {}),
        ("relations", 1.0, {"layers": "last-1"}),
        ("attention", 1.0, {"layers": "last-1"}),
        ("similarity", 1.0, {"layers": "last-1"}),
        ("mutual_information", 0.1, {"layers": "last-1"}),
    )
}  # fmt: skip


def main(arguments: list[str]) -> None:
    """Run every line in a process of its own; given a name, run that line in this process."""
    torch.set_num_threads(1)
    if arguments:
        print(json.dumps(line_of(arguments[0])))
        return
    prepare()
    results: list[dict[str, Any]] = []
    for name in RUNS:
        began = time.perf_counter()
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        console.print(f"{name}: {results[-1]}, {time.perf_counter() - began:.0f} s", highlight=False, soft_wrap=True)
    gold = results[0]
    lines = [
        {
            **line,
            "time": line["step_seconds"] / gold["step_seconds"],
            "memory": line["peak_bytes"] / gold["peak_bytes"],
        }
        for line in results
    ]
    save("objectives", lines)


def prepare() -> None:
    """Make the cache with its taps, and the student."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    texts = FOLDER / "texts.jsonl"
    documents = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
    hidden = ",".join(str(layer * TEACHER_LAYERS // LAYERS) for layer in range(1, LAYERS))
    plan = DumpSettings(
        teacher=find_teacher(),
        data=str(texts),
        out=FOLDER / "cache",
        max_length=128,
        overlap=0,
        limit=60,
        device="cpu",
        hidden=f"{hidden},final",
        qkv=str(TEACHER_LAYERS),
    )
    dump(plan)
    if not (FOLDER / "student").exists():
        transformers.set_seed(0)
        fresh(Cache(FOLDER / "cache").manifest.teacher.config, SHAPE).save_pretrained(FOLDER / "student")


def line_of(name: str) -> dict[str, Any]:
    """Return the line of one run."""
    ends: list[float] = []

    def note(step: Step) -> None:
        if step.stage == "train":
            ends.append(time.perf_counter())

    out = FOLDER / "run"
    shutil.rmtree(out, ignore_errors=True)
    settings = {
        "cache": FOLDER / "cache",
        "student": str(FOLDER / "student"),
        "out": out,
        "precision": "bfloat16",
        "batch_size": 2,
        "max_steps": STEPS,
        "evaluate_every": STEPS,
        "device": "cpu",
        "trainer": {"save_strategy": "no", "logging_steps": 1},
    }
    figures = train(TrainSettings.model_validate(settings | RUNS[name]), note)
    log = json.loads((out / "logitstore.json").read_text())["log"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    shutil.rmtree(out)
    return {
        "name": name,
        "settings": yaml.safe_dump(RUNS[name], default_flow_style=True).strip(),
        "first_loss": statistics.mean(losses[:ENDS]),
        "last_loss": statistics.mean(losses[-ENDS:]),
        "kl": figures["eval_kl"],
        "cross_entropy": figures["eval_cross_entropy"],
        "agreement": figures["eval_agreement"],
        "step_seconds": statistics.median(b - a for a, b in zip(ends[SKIPPED:-1], ends[SKIPPED + 1 :], strict=True)),
        "peak_bytes": resident("VmHWM"),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
