"""Measure what a student gains from each way to keep a row: `python benchmarks/quality.py`. With names of ways, such as
`python benchmarks/quality.py 'small, half gold'`, these alone are measured, and take the place of the earlier lines of the same
seeds. With `--seeds 1` the first seed alone is measured.

Teacher: SmolLM2-135M-Instruct in bfloat16. Student: a copy of five of its thirty layers. Text: the Python language
reference. Every student sees the same windows in the same order with the same budget; only the targets of the rows differ, or
which positions have a row. Each way goes through the codecs that a dump uses. Students are judged on documents that no student
saw, against the teacher's whole distribution. Finished lines are kept in build/quality.json until all are there, and an
interrupted run resumes from them; the teacher's hidden states are kept in build/, too.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path
from typing import Any

from demo import find_teacher
from logitstore.core.types import ModelRef
from logitstore.train.students.build import copied
from machine import describe_run
from students import BATCH_WINDOWS, ROWS, Lesson, Rows, fit, judge, rows_and_head, use_threads
from ways import WAYS, kept_by, targets_of

RESULTS = Path(__file__).parent / "results" / "quality.json"
UNFINISHED = Path(__file__).parent.parent / "build" / "quality.json"
LAYERS = "5"


def main(names: list[str], most_seeds: int) -> None:
    if unknown := set(names) - set(WAYS):
        sys.exit(f"no way is called {', '.join(sorted(unknown))}. There are: {'; '.join(WAYS)}.")
    use_threads()
    reference = ModelRef.parse(find_teacher())
    train, held_out, head = rows_and_head(reference)
    base = copied(reference, LAYERS).float()
    lines: list[dict[str, Any]] = json.loads(UNFINISHED.read_text()) if UNFINISHED.exists() else []
    done = {(line["objective"], line["train_temperature"], line["seed"]) for line in lines}
    for name in names or WAYS:
        way = WAYS[name]
        todo = [(t, seed) for seed in range(most_seeds) for t in way.temperatures if (name, t, seed) not in done]
        if not todo:
            continue
        kept_N = kept_by(way, train, head)
        targets = targets_of(way, train, head, head.vocabulary, kept_N)
        lesson = Lesson(way.loss, targets, kept_N, way.gold, way.last)
        for temperature, seed in todo:
            began = time.monotonic()
            student = fit(copy.deepcopy(base), lesson, train, temperature, seed)
            seconds = time.monotonic() - began
            for judged in judge(student, held_out, head, name, temperature, seed):
                lines.append(judged | {"seconds": round(seconds, 1)})
                if way.positions:
                    lines[-1]["rows"] = int(kept_N.sum())
                sys.stdout.write(f"{json.dumps(lines[-1])}\n")
            sys.stdout.flush()
            UNFINISHED.parent.mkdir(exist_ok=True)
            UNFINISHED.write_text(json.dumps(lines))
    save(lines, train, held_out, names)
    UNFINISHED.unlink()


def save(lines: list[dict[str, Any]], train: Rows, held_out: Rows, names: list[str]) -> None:
    """Write all lines; of some ways into the lines that are there, with a record of where these were
    measured; lines of other seeds stay."""
    size = {
        "student_layers": int(LAYERS),
        "training_rows": len(train.gold_N),
        "held_out_rows": len(held_out.gold_N),
        "batch_rows": BATCH_WINDOWS * ROWS,
    }
    found = describe_run() | {"size": size, "lines": lines}
    if names:
        before = json.loads(RESULTS.read_text())
        if before["size"] != size:
            sys.exit(f"{RESULTS}: its lines are of other sizes. Measure all ways.")
        new = [line for line in lines if line["objective"] in names]
        again = {_student(line) for line in new}
        others = [line for line in before["lines"] if _student(line) not in again]
        added = [each for each in before.get("added", []) if each["names"] != names]
        seeds = sorted({line["seed"] for line in new})
        added.append(describe_run() | {"names": names, "seeds": seeds})
        found = before | {"added": added, "lines": [*others, *new]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


def _student(line: dict[str, Any]) -> tuple[Any, ...]:
    """What a student is told by: the way, the temperature of the training, the seed."""
    return line["objective"], line["train_temperature"], line["seed"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    main(given.names, given.seeds)
