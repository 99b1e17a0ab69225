"""Measure what a dump costs over the teacher's bare forward pass: `python benchmarks/dump.py`.

Teacher: SmolLM2-135M-Instruct; preset small with nearest levels; one part of 24 windows of 256 tokens. Every way runs over the
same batches, in turns: the forward pass alone; the pass with selection and sketch; with encoding and writing too; and the whole
dump, with the comparison of 2,000 rows, which takes the same time in a dump of any size.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

import demo
from bench import added_peak, at_most, found, in_turns, ratio, resident, save
from logitstore.core.progress import no_progress
from logitstore.dump.dump import open_writer
from logitstore.dump.taps import TapRequest
from logitstore.dump.task import prepare
from logitstore.settings.dump import DumpSettings
from passes import Passes

FOLDER = Path("build/dump")
SAMPLES, FIDELITY_ROWS = 24, 2000
ROUNDS = {"bfloat16": 5, "float32": 4}


def main() -> None:
    torch.set_num_threads(2)
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo.TEXTS = FOLDER / "texts.jsonl"
    demo.write_texts()
    if sys.argv[1:2] == ["--peak"]:
        ready = Ready(sys.argv[2])
        before = resident("VmRSS")
        print(before + added_peak(getattr(ready, sys.argv[3])))
        return
    lines: list[dict[str, Any]] = []
    for dtype, rounds in ROUNDS.items():
        ready = Ready(dtype)
        seconds = in_turns(
            {name: getattr(ready, name) for name in ("forward", "selected", "written", "dumped")}, rounds
        )
        share = partial(ratio, seconds, to="forward")
        written, fidelity = share("written"), share("dumped") - share("written")
        compared = fidelity * ready.rows / FIDELITY_ROWS
        lines += [
            found(f"bare forward, {dtype}", ready.rows / sorted(seconds["forward"])[rounds // 2], "rows/s"),
            at_most(f"dump without the comparison over bare forward, {dtype}", 0.05, written - 1, "of it"),
            at_most(f"all but selection, {dtype}", 0.015, written - share("selected"), "of it"),
            found(
                f"the comparison of {FIDELITY_ROWS} rows, in forward passes of a row each, {dtype}", compared, "rows"
            ),
            found(f"the same in a dump of a million rows, {dtype}", compared * FIDELITY_ROWS / 1e6, "of it"),
        ]
        shutil.rmtree(ready.folder)
    peaks = {name: peak_of("bfloat16", name) for name in ("forward", "dumped")}
    lines.append(at_most("peak memory of a dump to that of the bare forward", 1.1, peaks["dumped"] / peaks["forward"]))
    save("dump", lines, rounds=ROUNDS, peak_bytes=peaks)


class Ready(Passes):
    """This holds a teacher, and a cache that has its pilot but no parts."""

    def __init__(self, dtype: str) -> None:
        folder = FOLDER / dtype
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan = DumpSettings(
            teacher=demo.find_teacher(), data=str(demo.TEXTS), out=folder, dtype=dtype, rounding="nearest", max_length=256,
            overlap=32, samples_per_part=SAMPLES, pilot_rows=1000, device="cpu",
        )  # fmt: skip
        prepared = prepare(plan, no_progress)
        teacher: Any = prepared.load()
        manifest = open_writer(plan, prepared, teacher, TapRequest(names=[], codec=None)).manifest
        super().__init__(folder, prepared, teacher, manifest, prepared.samples[:SAMPLES])
        # the one part that is written has all rows of the comparison
        self.fidelity_rows = round(FIDELITY_ROWS * self.manifest.rows / self.rows)

    def dumped(self) -> None:
        """Compare rows with the teacher too."""
        self.write(self.writer(self.fidelity_rows))


def peak_of(dtype: str, name: str) -> int:
    """Return the peak bytes of a process of its own, including the teacher's weights, without the pilot's peak."""
    done = subprocess.run([sys.executable, __file__, "--peak", dtype, name], check=True, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
