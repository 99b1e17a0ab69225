"""Measure how much faster two workers write than one, each with a teacher on one thread: `python benchmarks/workers.py`.

Both ways take turns. Rows are counted from the moment at which every worker has a part to the last such moment, so neither the
start of a worker nor its last part counts. Workers of this machine and workers of a local Ray are measured.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"

import shutil
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import demo
from bench import at_least, found, save
from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings

FOLDER = Path("build/workers")
ROUNDS, PARTS, SAMPLES, LENGTH = 3, 10, 4, 128
TARGET = 1.8


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo.TEXTS = FOLDER / "texts.jsonl"
    demo.write_texts()
    lines: list[dict[str, Any]] = []
    for name, cluster in (("on this machine", None), ("on a local Ray", "ray")):
        lines += compared(name, measured(demo.find_teacher(), demo.TEXTS, cluster, ROUNDS))
    save("workers", lines, rounds=ROUNDS, parts=PARTS, samples_per_part=SAMPLES, tokens_per_sample=LENGTH)
    shutil.rmtree(FOLDER)


def compared(name: str, rates: dict[int, list[float]]) -> list[dict[str, Any]]:
    """Return the lines of the results: the medians of one worker, and of two over one in the same round."""
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    return [
        found(f"one worker {name}, one thread", statistics.median(rates[1]), "rows/s"),
        at_least(f"two workers over one {name}, one thread each", TARGET, statistics.median(ratios), ratios=ratios),
    ]


@dataclass
class Busy:
    """Takes the steps of a dump, and keeps those at which every worker had a part.

    Attributes:
        workers: how many there are.
        seen: the time in seconds and the rows so far, of each such step.
    """

    workers: int
    seen: list[tuple[float, int]] = field(default_factory=list)

    def __call__(self, step: Step) -> None:
        # of one process of this machine a step names the part, of several the note does
        parts = 1 if step.part is not None else len(step.note.rpartition("parts ")[2].split())
        if step.stage == "dump" and parts == self.workers:
            self.seen.append((time.perf_counter(), step.done))

    def rate(self) -> float:
        """Return the rows of a second."""
        (began, first), (ended, last) = self.seen[0], self.seen[-1]
        return (last - first) / (ended - began)


def measured(teacher: str, texts: Path, cluster: str | None, rounds: int) -> dict[int, list[float]]:
    """Return the rows of a second of one worker and of two, of each round.

    Args:
        teacher: the teacher.
        texts: its documents.
        cluster: ray, or None for processes of this machine.
        rounds: how often; before them one round warms up.
    """
    rates: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds + 1):
        for workers, of in rates.items():
            shutil.rmtree(FOLDER / "cache", ignore_errors=True)
            busy = Busy(workers)
            dump(plan(teacher, texts, cluster, workers), busy)
            if number:
                of.append(busy.rate())
    return rates


def plan(teacher: str, texts: Path, cluster: str | None, workers: int) -> DumpSettings:
    """Return a dump of small parts. Of one process of this machine there is no crew, and the command itself writes."""
    settings: dict[str, Any] = {
        "teacher": teacher,
        "data": str(texts),
        "prepared": FOLDER / "prepared",
        "out": FOLDER / "cache",
        "preset": "small",
        "pilot_rows": SAMPLES * LENGTH,
        "fidelity_rows": 0,
        "limit": PARTS * SAMPLES,
        "max_length": LENGTH,
        "overlap": 0,
        "parts": f"0-{PARTS - 1}",
        "dtype": "float32",
        "device": "cpu",
        "samples_per_part": SAMPLES,
        "cluster": cluster,
        "processes": workers,
    }
    return DumpSettings(**settings)


if __name__ == "__main__":
    main()
