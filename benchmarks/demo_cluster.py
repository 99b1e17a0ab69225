"""`make demo-cluster`: the demo as on a cluster, on one machine. Its teacher, texts and students are those of `make demo`.

An object store (moto's server) and a Ray of its own are started. Two workers dump into the store, and one of them is killed on
the way. Then students train on two ranks each, and read the cache through a folder of this machine that is too small for all of
it. What was survived is printed below the demo's table.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import demo
from bench import console
from demo import HOLDOUT, STUDENTS, cut_students, find_teacher, quiet, report, run, step, timed, write_texts
from logitstore.store.remote.node import node_folder
from logitstore.store.remote.objects import Objects
from logitstore.store.remote.settings import FOLDER as NODE_VARIABLE
from logitstore.store.remote.settings import SIZE as SIZE_VARIABLE
from logitstore.store.storage import open_storage
from object_server import BUCKET, served, variables

FOLDER = Path("demo-cluster")
CACHE = f"s3://{BUCKET}/demo"
WINDOW = "2"
SHARE = 0.6
"""The folder of the machine has room for so many times the bytes of the parts, beside the largest shared file."""

TRAINING = ["--batch-size", "1", "--learning-rate", "5e-4", "--holdout", HOLDOUT, "--evaluate-every", "1000000"]
"""As in the demo, but for half the batch on each of two ranks."""


def main() -> None:
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    demo.FOLDER, demo.TEXTS = FOLDER, FOLDER / "texts.jsonl"
    demo.CACHE = CACHE
    teacher = find_teacher()
    write_texts()
    with served() as address:
        os.environ |= variables(address) | {
            NODE_VARIABLE: str((FOLDER / "node").resolve()),
            "RAY_TMPDIR": "/tmp/logitstore-demo",
            "OMP_NUM_THREADS": "1",
        }
        step("Dump: two workers of a Ray cluster, one of which is killed, into an object store")
        seconds = time.monotonic()
        said = dump_with_a_kill(teacher)
        seconds = time.monotonic() - seconds
        run("verify", CACHE)
        sizes = {found.name: found.size for found in Objects(CACHE).below("")}
        parts = sum(size for name, size in sizes.items() if name.startswith("parts/"))
        # the shared files are read once, the parts in every epoch
        most = max(sizes.values()) + int(SHARE * parts)
        os.environ[SIZE_VARIABLE] = str(most)
        step("Cut the students from the teacher's layers")
        cut_students(teacher)
        results = []
        for name, folder, alpha in (
            *((n, f, "0.5") for n, f in STUDENTS.items()),
            ("6 layers, gold tokens alone", "student-6", "0"),
        ):
            step(f"Train: {name}, on two ranks, from the store")
            out = FOLDER / f"trained-{folder}-alpha{alpha}"
            taken = timed(lambda f=folder, a=alpha, o=out: trained(FOLDER / f, o, a))
            figures = {
                key.removeprefix("eval_"): value
                for key, value in json.loads((out / "logitstore.json").read_text())["figures"].items()
            }
            results.append({"student": name, "seconds": taken, "folder": str(out), **figures})
        report(results, seconds, time.monotonic() - began)
        used = node_folder(FOLDER.resolve() / "node", most).used()
    console.print(
        f"survived: {said}\n"
        f"read through a folder of at most {most:,} bytes, of a cache of {sum(sizes.values()):,}: {used:,} bytes lie in it now",
        soft_wrap=True,
        highlight=False,
    )


def dump_with_a_kill(teacher: str) -> str:
    """Dump with two workers; kill one when the first part is there. Return what the command said of that."""
    arguments = [
        "dump", "--teacher", teacher, "--data", demo.TEXTS, "--out", CACHE, "--max-length", "256", "--overlap", "32",
        "--samples-per-part", "8", "--cluster", "ray", "--processes", "2",
    ]  # fmt: skip
    console.print("$ logitstore " + " ".join(map(str, arguments)), style="dim", soft_wrap=True, highlight=False)
    command = [sys.executable, "-m", "logitstore", *map(str, arguments)]
    process = subprocess.Popen(command, env=quiet(), stderr=subprocess.PIPE, text=True)
    storage = open_storage(CACHE)
    while not storage.list_parts():
        if process.poll() is not None:
            sys.exit(process.communicate()[1])
        time.sleep(0.5)
    victim = workers()[0]
    os.kill(victim, signal.SIGKILL)
    console.print(f"killed process {victim}, which wrote a part", highlight=False)
    _, printed = process.communicate()
    if process.returncode:
        sys.exit(printed)
    notes = [line for line in re.split(r"[\r\n]+", printed) if "SIGKILL" in line]
    if not notes:
        sys.exit(f"the killed worker was not noticed:\n{printed}")
    return notes[0].strip()


def workers() -> list[int]:
    """Return the processes that write parts."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if b"dump.processes.child" in line:
                found.append(int(folder.name))
    return sorted(found)


def trained(student: Path, out: Path, alpha: str) -> None:
    """Train a student on two ranks."""
    arguments: list[Any] = [
        "train",
        CACHE,
        "--student",
        student,
        "--out",
        out,
        "--alpha",
        alpha,
        "--window-parts",
        WINDOW,
    ]
    console.print(
        "$ torchrun --nproc-per-node 2 -m logitstore " + " ".join(map(str, [*arguments, *TRAINING])),
        style="dim",
        soft_wrap=True,
        highlight=False,
    )
    demo.start(
        [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            "-m",
            "logitstore",
            *arguments,
            *TRAINING,
        ]
    )


if __name__ == "__main__":
    main()
