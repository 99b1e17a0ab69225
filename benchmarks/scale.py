"""Measure opening a cache and getting its first batch, for caches of any size: `python benchmarks/scale.py`.

Caches have 2, 20 and 1,000 million rows in windows of 512 and parts of 1,024 windows; the parts of each are hard links to
the files of one part. Every measurement is a process of its own that has imported everything. It measures the time from
opening the cache to the decoded targets of the first batch, and the anonymous memory that this added.
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import logitstore
from bench import at_most, found, in_a_process, resident, save
from logitstore.train.loader.loader import Loader
from synthetic import make_cache

FOLDER = Path("build/scale")
SIZES = {"2 million": 4096, "20 million": 40_960, "1,000 million": 2_000_000}
ROWS, ROUNDS = 512, 7


def main() -> None:
    if sys.argv[1:2] == ["--open"]:
        print(json.dumps(opened(Path(sys.argv[2]), packed=sys.argv[3] == "packed")))
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, samples in SIZES.items():
        make_cache(FOLDER / name, "topk", samples=samples, rows=ROWS, linked=True, tail="uniform")
    lines: list[dict[str, Any]] = []
    for order in ("bucketed", "packed"):
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in SIZES}
        for _ in range(ROUNDS):
            for name, runs in measured.items():
                runs.append(in_a_process(__file__, "--open", FOLDER / name, order))
        seconds = {name: statistics.median(each["seconds"] for each in runs) for name, runs in measured.items()}
        added = {name: statistics.median(each["anonymous"] for each in runs) for name, runs in measured.items()}
        first = next(iter(SIZES))
        lines.append(found(f"open and first batch, {first} rows, {order}", 1e3 * seconds[first], "ms"))
        for name in list(SIZES)[1:]:
            lines += [
                at_most(f"open and first batch, {name} to {first} rows, {order}", 1.2, seconds[name] / seconds[first]),
                at_most(
                    f"anonymous memory, {name} over {first} rows, {order}", 10, (added[name] - added[first]) / 1e6, "MB"
                ),
            ]
    save("scale", lines, rounds=ROUNDS)
    shutil.rmtree(FOLDER)


def opened(path: Path, packed: bool) -> dict[str, float]:
    before = resident("RssAnon")
    began = time.perf_counter()
    loader = Loader(logitstore.open(path), batch_size=8, packed=packed, workers=0)
    loader.targets(next(iter(loader)))
    return {"seconds": time.perf_counter() - began, "anonymous": resident("RssAnon") - before}


if __name__ == "__main__":
    main()
