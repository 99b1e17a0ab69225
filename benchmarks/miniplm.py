"""Run MiniPLM end to end: train on half of a corpus of mixed quality, chosen by two models, and on a random half.

The corpus is text that lies on a machine with Python: the language reference, and the READMEs, licences, source code, JSON
and CSV files of the installed packages, cut to 4,000 characters. The teacher is SmolLM2-135M-Instruct. The reference model
and the student are copies of three of its thirty layers; the reference is trained on the whole corpus. Every student takes
the same number of steps over windows of the same length. It is judged on held-out documents, of the language reference and
of the others.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
import statistics
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import RESULTS, console
from demo import find_teacher
from logitstore.core.order import held_out
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.models.load import load_config, load_tokenizer, load_weights
from logitstore.select.select import select
from logitstore.settings.dump import DumpSettings
from logitstore.settings.look import SelectSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.text.metrics import evaluate_text
from logitstore.train.loader.loader import evaluation_loader
from logitstore.train.students.build import copied
from logitstore.train.train import train
from machine import describe_run

FOLDER = Path("build/miniplm")
KINDS = {
    "prose": ("*.md", "*.rst", "METADATA"),
    "licence": ("LICENSE*",),
    "code": ("*.py",),
    "data": ("*.json", "*.csv"),
}
EACH = 120
"""Number of documents of every kind; the language reference has as many."""

CHARACTERS = 4000
HOLDOUT = 0.2
STEPS, REFERENCE_STEPS = 300, 300
SEEDS = (0, 1, 2)
TEACHERS_WORDS = "reference"


def main() -> None:
    """Write the corpus, score it twice, choose two halves, train on each with three seeds, and judge the students."""
    torch.set_num_threads(2)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_corpus()
    teacher = find_teacher()
    if not (FOLDER / "small").exists():
        copied(ModelRef.parse(teacher), "3").save_pretrained(FOLDER / "small")
        load_tokenizer(ModelRef.parse(teacher)).save_pretrained(FOLDER / "small")
    scored("by-teacher", teacher)
    if not (FOLDER / "reference").exists():
        fit("reference", "by-teacher", seed=100, select=None, steps=REFERENCE_STEPS)
    scored("by-reference", str(FOLDER / "reference"))
    lines = []
    for seed in SEEDS:
        for method in ("difference", "random"):
            chosen = choose(method, seed)
            out = fit(f"{method}-{seed}", "by-teacher", seed=seed, select=chosen["file"], steps=STEPS)
            lines.append({"name": method, "seed": seed, "shares": chosen["shares"], **judge(out)})
            console.print(str(lines[-1]), highlight=False, soft_wrap=True)
    for method in ("difference", "random"):
        for figure in ("all", TEACHERS_WORDS, "others"):
            values = [line[figure] for line in lines if line["name"] == method]
            console.print(f"{method}, {figure}: {statistics.mean(values):.3f} ± {statistics.stdev(values):.3f} nats")
    content = describe_run() | {"steps": STEPS, "lines": lines}
    (RESULTS / "miniplm.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_corpus() -> None:
    """Write the same documents on the same machine, drawn so that no package has most of them."""
    packages = Path(sysconfig.get_paths()["purelib"])
    texts_of = {TEACHERS_WORDS: [text[:CHARACTERS] for _, text in sorted(pydoc_data.topics.topics.items())][:EACH]}
    for kind, patterns in KINDS.items():
        paths = sorted(path for pattern in patterns for path in packages.rglob(pattern) if path.is_file())
        drawn = np.random.default_rng(0).permutation(len(paths))
        texts: list[str] = []
        for place in drawn:
            text = paths[place].read_text(encoding="utf-8", errors="ignore")[:CHARACTERS]
            if len(text) >= CHARACTERS // 4:
                texts.append(text)
            if len(texts) == EACH:
                break
        texts_of[kind] = texts
    lines = [json.dumps({"text": text, "kind": kind}) for kind, texts in texts_of.items() for text in texts]
    (FOLDER / "corpus.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def scored(name: str, model: str) -> None:
    """Dump a cache of a model's scores of the corpus."""
    dump(
        DumpSettings(
            teacher=model,
            data=str(FOLDER / "corpus.jsonl"),
            out=FOLDER / name,
            domain_column="kind",
            preset="scores",
            max_length=256,
            overlap=0,
            device="cpu",
        )
    )


def choose(method: str, seed: int) -> dict[str, Any]:
    """Choose half of the samples, and count how many of each kind are among them."""
    file = FOLDER / f"{method}-{seed}.arrow"
    reference = {"reference": FOLDER / "by-reference"} if method == "difference" else {"seed": seed}
    plan = {"cache": FOLDER / "by-teacher", "out": file, "method": method, "ratio": 0.5}
    selected = select(SelectSettings.model_validate(plan | reference))
    domains = Cache(FOLDER / "by-teacher").domains()
    chosen = [domains[sample] for sample in selected.selection.samples_M]
    return {"file": file, "shares": {kind: chosen.count(kind) / domains.count(kind) for kind in dict.fromkeys(domains)}}


def fit(name: str, cache: str, *, seed: int, select: Path | None, steps: int) -> Path:
    """Train the small model on text alone."""
    out = FOLDER / name
    shutil.rmtree(out, ignore_errors=True)
    train(
        TrainSettings(
            cache=FOLDER / cache,
            student=str(FOLDER / "small"),
            out=out,
            alpha=0.0,
            select=select,
            precision="bfloat16",
            batch_size=4,
            max_steps=steps,
            evaluate_every=steps,
            holdout=HOLDOUT,
            seed=seed,
            device="cpu",
            trainer={"save_strategy": "no"},
        )
    )
    return out


def judge(student: Path) -> dict[str, float]:
    """Return the nats per token on held-out documents."""
    cache = Cache(FOLDER / "by-teacher")
    reference = ModelRef.parse(str(student))
    model = load_weights(reference, load_config(reference), torch.bfloat16).eval()
    kept_out = held_out(cache.documents(), HOLDOUT)
    is_reference = np.array([domain == TEACHERS_WORDS for domain in cache.domains()])
    groups = {"all": kept_out, TEACHERS_WORDS: kept_out & is_reference, "others": kept_out & ~is_reference}
    return {
        name: evaluate_text(
            model, evaluation_loader(cache, np.flatnonzero(chosen), batch_size=8), torch.device("cpu"), size=None
        ).cross_entropy
        for name, chosen in groups.items()
    }


if __name__ == "__main__":
    main()
