"""Compare small classifiers of texts that learn from the mean of two teachers with those of one teacher and of the labels.

Texts: first paragraphs of the docstrings of Python's standard library (PSF licence), as it lies beside the interpreter. A class
is what a module is for. The modules of the test are others than those of training. Teachers: the first layers of
SmolLM2-135M-Instruct with a layer for classes, each tuned on a half of the labelled texts that the other does not have. Both are
dumped and their caches merged. A student, one layer, learns from the answers about the labelled texts, or about these and texts
without labels; beside it stand students of each teacher alone and of the labels alone, with as many steps.
"""

from __future__ import annotations

import ast
import json
import math
import random
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForSequenceClassification, set_seed

from bench import at_least, console, found, save
from demo import find_teacher
from logitstore.classification.metrics import macro_f1, matthews
from logitstore.convert.merge import merge
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.models.load import load_config, load_tokenizer, load_weights
from logitstore.settings.convert import MergeSettings
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense
from logitstore.train.evaluate import evaluate
from logitstore.train.students.build import keep_layers
from logitstore.train.train import train

FOLDER = Path("build/classifiers")
SEEDS = (0, 1, 2)
MODULES = {
    "network": (
        "http urllib socket ssl smtplib ipaddress wsgiref",
        "ftplib imaplib poplib xmlrpc socketserver selectors",
    ),
    "markup": ("email mailbox", "xml html mimetypes quopri base64 plistlib"),
    "files": ("shutil zipfile tarfile gzip os posixpath _pyio", "pathlib bz2 lzma tempfile ntpath fileinput shelve"),
    "concurrency": ("asyncio threading queue contextlib", "multiprocessing concurrent subprocess sched weakref"),
    "numbers": ("_pydecimal random numbers datetime _strptime", "statistics fractions calendar heapq uuid"),
    "compiler": ("importlib inspect ast symtable", "typing dis pickletools pyclbr tokenize pkgutil runpy codeop"),
    "testing": ("unittest logging pdb", "doctest bdb trace traceback timeit pstats cmd warnings tracemalloc"),
    "windows": ("tkinter", "turtle curses"),
}
"""The modules of each class: to learn from, and to be judged on."""

LABELLED, UNLABELLED, JUDGED = 40, 60, 40
"""Texts of each class: with a label, without one, and to judge on."""

WORDS, LENGTH = 6, 24
"""Fewest words and most tokens of a text."""

TEACHERS = {"a": 5, "b": 3}
"""Layers of the teachers."""

TEACHER_EPOCHS, EPOCHS, BATCH = 3, 1, 8
"""The epochs of a student are over all texts; those of labelled texts alone are as many more as make the same steps."""

GOLD, FEW, MANY = "labels alone", "mean, labelled texts", "mean, all texts"
FIGURES = ("accuracy", "macro_f1", "matthews", "agreement", "probability_loyalty", "kl")


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    labelled = write_texts()
    halves = {"a": labelled[::2], "b": labelled[1::2]}
    for seed, (name, layers) in enumerate(TEACHERS.items()):
        teach(name, layers, halves[name], seed)
    caches = {data: answered(data) for data in ("labelled", "all", "test")}
    test = caches["test"]["mean"]
    models = [{"way": f"teacher {name}", **judged(test, FOLDER / f"teacher-{name}")} for name in TEACHERS]
    models.append({"way": "mean of the teachers", **of_mean(test)})
    for line in models:
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
    more = (LABELLED + UNLABELLED) / LABELLED
    students = []
    for seed in SEEDS:
        begun = FOLDER / f"begun-{seed}"
        set_seed(seed)
        keep(classifier(1), begun)
        runs: dict[str, tuple[Cache, dict[str, Any]]] = {
            GOLD: (caches["labelled"]["mean"], {"alpha": 0, "epochs": EPOCHS * more}),
            FEW: (caches["labelled"]["mean"], {"epochs": EPOCHS * more}),
            **{f"teacher {name}, all texts": (caches["all"][name], {"epochs": EPOCHS}) for name in TEACHERS},
            MANY: (caches["all"]["mean"], {"epochs": EPOCHS}),
        }
        for way, (cache, options) in runs.items():
            out = FOLDER / f"student-{seed}-{len(students)}"
            learned(cache, begun, out, seed, **options)
            line = {"way": way, "seed": seed, **judged(test, out)}
            console.print(json.dumps(line), highlight=False, soft_wrap=True)
            students.append(line)
        sizes = {"labelled": LABELLED, "unlabelled": UNLABELLED, "judged": JUDGED}
        more_of_it: dict[str, Any] = {"epochs": EPOCHS, "classes": list(MODULES), "texts_of_a_class": sizes}
        save("classifiers", lines_of(students, models), students=students, models=models, **more_of_it)


def write_texts() -> list[tuple[str, int]]:
    """Write labelled.jsonl, all.jsonl and test.jsonl; return the labelled texts with their classes."""
    draw, told, untold, test = random.Random(0), [], [], []
    for label, (taught, judged_on) in enumerate(MODULES.values()):
        known, others = paragraphs(taught), paragraphs(judged_on)
        others -= known
        mine, theirs = sorted(known), sorted(others)
        draw.shuffle(mine)
        draw.shuffle(theirs)
        if len(mine) < LABELLED + UNLABELLED or len(theirs) < JUDGED:
            sys.exit(
                f"{taught}; {judged_on}: {len(mine)} and {len(theirs)} texts. Run it with Python 3.11, with its tkinter."
            )
        told += [(text, label) for text in mine[:LABELLED]]
        untold += [(text, None) for text in mine[LABELLED : LABELLED + UNLABELLED]]
        test += [(text, label) for text in theirs[:JUDGED]]
    draw.shuffle(told)
    for name, rows in (("labelled", told), ("all", told + untold), ("test", test)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return told


def paragraphs(modules: str) -> set[str]:
    """Return the first paragraphs of the docstrings of some modules, those that are no shorter than WORDS."""
    library, texts = Path(sysconfig.get_paths()["stdlib"]), set()
    for module in modules.split():
        files = sorted((library / module).rglob("*.py")) or [library / f"{module}.py"]
        for file in files:
            if "test" in file.parts or not file.exists():
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                    if len(text.split()) >= WORDS:
                        texts.add(text)
    return texts


@lru_cache
def base() -> tuple[Any, Any]:
    """Return the first layers of SmolLM2, as many as the deepest teacher has, and its tokenizer."""
    reference = ModelRef.parse(find_teacher())
    model = load_weights(reference, load_config(reference), torch.float32)
    return keep_layers(model, list(range(max(TEACHERS.values())))), load_tokenizer(reference)


def classifier(layers: int) -> Any:
    """Return the first layers of SmolLM2 with a fresh layer for the classes."""
    whole, tokenizer = base()
    first = keep_layers(whole, list(range(layers)))
    names = dict(enumerate(MODULES))
    changes = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = LlamaConfig(
        **first.config.to_dict() | changes | {"pad_token_id": tokenizer.pad_token_id, "architectures": None}
    )
    model = LlamaForSequenceClassification(config)
    inner: Any = model.model
    inner.load_state_dict(first.get_submodule("model").state_dict())
    return model


def keep(model: Any, folder: Path) -> None:
    """Save a classifier with its tokenizer."""
    model.save_pretrained(folder)
    base()[1].save_pretrained(folder)


def teach(name: str, layers: int, texts: Sequence[tuple[str, int]], seed: int) -> None:
    """Tune a teacher on labelled texts, but for its embedding, and save it."""
    set_seed(seed)
    model = classifier(layers).train()
    tokenizer = base()[1]
    model.model.embed_tokens.requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 3e-4)
    batches = math.ceil(len(texts) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-4, TEACHER_EPOCHS * batches)
    for _ in range(TEACHER_EPOCHS):
        for some in torch.randperm(len(texts)).split(BATCH):
            chosen = [texts[int(at)] for at in some]
            inputs = tokenizer(
                [text for text, _ in chosen], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            labels_B = torch.tensor([label for _, label in chosen])
            loss: Tensor = cross_entropy(model(**inputs).logits, labels_B)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    keep(model.eval(), FOLDER / f"teacher-{name}")


def answered(data: str) -> dict[str, Cache]:
    """Let both teachers answer about a file of texts; return their caches and that of their mean."""
    caches = {}
    for name in TEACHERS:
        plan: dict[str, Any] = {"teacher": str(FOLDER / f"teacher-{name}"), "data": str(FOLDER / f"{data}.jsonl")}
        usual: dict[str, Any] = {"task": "text-classification", "max_length": LENGTH, "device": "cpu"}
        caches[name] = dump(DumpSettings(**plan, **usual, out=FOLDER / f"{data}-{name}"))
    places = [cache.path for cache in caches.values()]
    settings: dict[str, Any] = {"caches": places, "out": FOLDER / f"{data}-mean", "sparsifier": "dense"}
    return caches | {"mean": merge(MergeSettings(**settings))}


def learned(cache: Cache, student: Path, out: Path, seed: int, **options: Any) -> None:
    """Train a student."""
    plan: dict[str, Any] = {"cache": cache.path, "student": str(student), "out": out, "seed": seed}
    usual: dict[str, Any] = {
        "batch_size": BATCH,
        "learning_rate": 3e-4,
        "holdout": 0,
        "freeze": ["model.embed_tokens.*"],
    }
    train(TrainSettings(**plan | usual | options, device="cpu", keep_checkpoints=0))


def judged(test: Cache, model: Path) -> dict[str, float]:
    """Return how good a model is on the modules of the test, and how near to the mean of the teachers."""
    plan: dict[str, Any] = {"cache": test.path, "student": str(model), "samples": "all", "dtype": "float32"}
    figures = evaluate(EvaluateSettings(**plan, device="cpu", batch_size=50))
    return {name: round(getattr(figures, name), 5) for name in FIGURES}


def of_mean(test: Cache) -> dict[str, float]:
    """Return how good the mean of the teachers itself is, as the cache has it."""
    loader, classes = test.loader(batch_size=50), len(MODULES)
    counts_3C = torch.zeros(3, classes, dtype=torch.float64)
    for batch in loader:
        answers_N = dense(loader.targets(batch))[:, :classes].argmax(-1)
        for line, each in enumerate((batch.gold[answers_N == batch.gold], answers_N, batch.gold)):
            counts_3C[line] += torch.bincount(each, minlength=classes)
    right_C, answered_C, labelled_C = counts_3C
    figures = {
        "accuracy": float(right_C.sum() / labelled_C.sum()),
        "macro_f1": macro_f1(right_C, answered_C, labelled_C),
    }
    figures["matthews"] = matthews(right_C, answered_C, labelled_C)
    return {name: round(value, 5) for name, value in figures.items()}


def lines_of(students: list[dict[str, Any]], models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of all students together."""

    def of(way: str, name: str = "accuracy") -> float:
        return mean(line[name] for line in (*students, *models) if line["way"] == way)

    best = max((f"teacher {name}, all texts" for name in TEACHERS), key=of)
    better = max((f"teacher {name}" for name in TEACHERS), key=of)
    return [
        at_least("accuracy of the mean's student over that of the labels", 0, 100 * (of(MANY) - of(GOLD)), "points"),
        at_least("accuracy of the mean's student over the best student of one teacher", 0, 100 * (of(MANY) - of(best)), "points"),
        found("accuracy of the mean's student on all texts over that on the labelled ones", 100 * (of(MANY) - of(FEW)), "points"),
        found("accuracy of the mean over the better teacher", 100 * (of("mean of the teachers") - of(better)), "points"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
