"""Compare small classifiers of texts that learn from the mean of two teachers with those of one teacher and of the labels.

Texts: first paragraphs of the docstrings of Python's standard library (PSF licence), as it lies beside the interpreter; a class
is the package that a text is from. Teachers: two BERTs of other shapes, each trained from nothing on a half of the labelled
texts that the other does not have. Both are dumped and their caches merged. A smaller BERT learns from the answers about texts
with and without labels; beside it stand students of each teacher alone, and of the labels alone, with as many steps.
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
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast, set_seed

from bench import at_least, console, found, save
from logitstore.classification.metrics import macro_f1, matthews
from logitstore.convert.merge import merge
from logitstore.dump.dump import dump
from logitstore.settings.convert import MergeSettings
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train

FOLDER = Path("build/classifiers")
SEEDS = (0, 1, 2)
PACKAGES = ("asyncio", "email", "importlib", "logging", "tkinter", "turtle", "_pydecimal", "xml")

LABELLED, UNLABELLED, JUDGED = 30, 50, 24
"""Texts of each class: with a label, without one, and to judge on."""

WORDS, LENGTH = 6, 24
"""Fewest words and most tokens of a text."""

TEACHERS, STUDENT = {"a": (2, 128), "b": (1, 160)}, (1, 64)
"""Layers and width of each teacher, and of the students."""

VOCABULARY = 2000

TEACHER_EPOCHS, EPOCHS, BATCH = 25, 6, 16
"""The epochs of a student are over all texts; those of labelled texts alone are as many more as make the same steps."""

GOLD, MANY = "labels alone", "mean of the teachers' answers"
FIGURES = ("accuracy", "macro_f1", "matthews", "agreement", "probability_loyalty", "kl")


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    labelled = write_texts()
    halves = {"a": labelled[::2], "b": labelled[1::2]}
    for seed, (name, shape) in enumerate(TEACHERS.items()):
        teach(name, shape, halves[name], seed)
    caches = {data: answered(data) for data in ("labelled", "all", "test")}
    test = caches["test"]["mean"]
    models = [{"way": f"teacher {name}", **judged(test, FOLDER / f"teacher-{name}")} for name in TEACHERS]
    models.append({"way": "mean of the teachers", **of_mean(test)})
    for line in models:
        console.print(json.dumps(line), highlight=False, soft_wrap=True)
    more = (LABELLED + UNLABELLED) / LABELLED
    students: list[dict[str, Any]] = []
    for seed in SEEDS:
        begun = FOLDER / f"begun-{seed}"
        keep(classifier(*STUDENT, seed), begun)
        runs: dict[str, tuple[Cache, dict[str, Any]]] = {
            GOLD: (caches["labelled"]["a"], {"alpha": 0, "epochs": EPOCHS * more}),
            **{f"teacher {name} alone": (caches["all"][name], {"epochs": EPOCHS}) for name in TEACHERS},
            MANY: (caches["all"]["mean"], {"epochs": EPOCHS}),
        }
        for way, (cache, options) in runs.items():
            out = FOLDER / f"student-{seed}-{len(students)}"
            learned(cache, begun, out, seed, **options)
            line = {"way": way, "seed": seed, **judged(test, out)}
            console.print(json.dumps(line), highlight=False, soft_wrap=True)
            students.append(line)
        sizes = {"labelled": LABELLED, "unlabelled": UNLABELLED, "judged": JUDGED}
        more_of_it: dict[str, Any] = {"epochs": EPOCHS, "classes": list(PACKAGES), "texts_of_a_class": sizes}
        save("classifiers", lines_of(students, models), students=students, models=models, **more_of_it)


def write_texts() -> list[tuple[str, int]]:
    """Write labelled.jsonl, all.jsonl and test.jsonl; return the labelled texts with their classes."""
    draw, told, untold, test = random.Random(0), [], [], []
    for label, package in enumerate(PACKAGES):
        texts = sorted(paragraphs(package))
        draw.shuffle(texts)
        if len(texts) < LABELLED + UNLABELLED + JUDGED:
            sys.exit(f"{package}: {len(texts)} texts. Run it with Python 3.11, with its tkinter.")
        told += [(text, label) for text in texts[:LABELLED]]
        untold += [(text, None) for text in texts[LABELLED : LABELLED + UNLABELLED]]
        test += [(text, label) for text in texts[-JUDGED:]]
    draw.shuffle(told)
    for name, rows in (("labelled", told), ("all", told + untold), ("test", test)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (FOLDER / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return told


def paragraphs(package: str) -> set[str]:
    """Return the first paragraphs of the docstrings of a package, those that are no shorter than WORDS."""
    library, texts = Path(sysconfig.get_paths()["stdlib"]), set()
    for file in sorted((library / package).rglob("*.py")) or [library / f"{package}.py"]:
        if "test" in file.parts:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
                if len(text.split()) >= WORDS:
                    texts.add(text)
    return texts


@lru_cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of word pieces, fitted on the texts to learn from."""
    pieces = BertWordPieceTokenizer()
    texts = [json.loads(line)["text"] for line in (FOLDER / "all.jsonl").read_text().splitlines()]
    pieces.train_from_iterator(texts, vocab_size=VOCABULARY, show_progress=False)
    names = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=pieces._tokenizer, **names)


def classifier(layers: int, width: int, seed: int) -> BertForSequenceClassification:
    """Return a fresh classifier."""
    set_seed(seed)
    names = dict(enumerate(PACKAGES))
    shape = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
    }
    classes = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    config = BertConfig(vocab_size=len(tokenizer()), max_position_embeddings=LENGTH, **shape, **classes)
    return BertForSequenceClassification(config)


def keep(model: BertForSequenceClassification, folder: Path) -> None:
    """Save a classifier with its tokenizer."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)


def teach(name: str, shape: tuple[int, int], texts: Sequence[tuple[str, int]], seed: int) -> None:
    """Train a teacher on labelled texts, and save it."""
    model = classifier(*shape, seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    batches = math.ceil(len(texts) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, TEACHER_EPOCHS * batches)
    for _ in range(TEACHER_EPOCHS):
        order = torch.randperm(len(texts)).tolist()
        for first in range(0, len(order), BATCH):
            chosen = [texts[at] for at in order[first : first + BATCH]]
            inputs = tokenizer()(
                [text for text, _ in chosen], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
            )
            labels_B = torch.tensor([label for _, label in chosen])
            loss: Tensor = cross_entropy(model(**inputs).logits, labels_B)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
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
    usual: dict[str, Any] = {"batch_size": BATCH, "learning_rate": 2e-3, "holdout": 0}
    train(TrainSettings(**plan | usual | options, device="cpu", keep_checkpoints=0))


def judged(test: Cache, model: Path) -> dict[str, float]:
    """Return how good a model is on the texts of the test, and how near to the mean of the teachers."""
    plan: dict[str, Any] = {"cache": test.path, "student": str(model), "samples": "all", "dtype": "float32"}
    figures = evaluate(EvaluateSettings(**plan, device="cpu", batch_size=100))
    return {name: round(getattr(figures, name), 5) for name in FIGURES}


def of_mean(test: Cache) -> dict[str, float]:
    """Return how good the mean of the teachers itself is, as the cache has it."""
    loader, classes = test.loader(batch_size=100), len(PACKAGES)
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
        return float(mean(line[name] for line in (*students, *models) if line["way"] == way))

    best = max((f"teacher {name} alone" for name in TEACHERS), key=of)
    better = max((f"teacher {name}" for name in TEACHERS), key=of)
    return [
        at_least("accuracy of the mean's student over that of the labels", 0, 100 * (of(MANY) - of(GOLD)), "points"),
        at_least("the same over the better student of one teacher", 0, 100 * (of(MANY) - of(best)), "points"),
        found("accuracy of the mean over the better teacher", 100 * (of("mean of the teachers") - of(better)), "points"),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
