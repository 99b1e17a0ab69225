"""Compare what a student learns from its own texts, scored once by the teacher, with what it learns from gold tokens alone.

Teacher: SmolLM2-135M-Instruct, as the package index ships it. Texts: the Python language reference that comes with Python. The
student is a copy of three of the teacher's layers that has learned once from the gold tokens. It goes on a text's beginning in
its own words; the teacher answers about these words once, and the student learns from the answers in several epochs, while it
moves away from the student that wrote them (off-policy replay). Beside it stand students that learn as long from the gold
tokens of the same texts, and from the teacher's answers about them. All are judged on texts that no student saw, and on what
they write themselves.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import shutil
import statistics
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from bench import at_least, console, found, save
from demo import find_teacher
from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.models.load import load_config, load_tokenizer, load_weights
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.students.build import copied
from logitstore.train.train import train

FOLDER = Path("build/replay")
SEEDS = (0, 1, 2)
LAYERS = "3"
LENGTH, PROMPT = 96, 32
"""Tokens of a text, and of its beginning that a student goes on from."""

TRAINED, JUDGED = 20, 8
"""Texts to learn from, and texts that no student sees."""

EPOCHS = 2

GOLD, TAUGHT, REPLAYED = "gold tokens", "the teacher on gold texts", "the teacher on the student's own texts"
BEGUN = "as it was before"


def main() -> None:
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    teacher = find_teacher()
    reference = ModelRef.parse(teacher)
    tokenizer = load_tokenizer(reference)
    texts = spans(tokenizer)
    gold = answered(teacher, texts[:TRAINED], "gold", "faithful")
    unseen = answered(teacher, texts[-JUDGED:], "unseen", "faithful")
    student = FOLDER / "student"
    copied(reference, LAYERS).save_pretrained(student)
    tokenizer.save_pretrained(student)
    judge = load_weights(reference, load_config(reference), torch.float32, "causal-lm").eval()
    prompts = torch.tensor(texts)[:, :PROMPT]
    students = []
    for seed in SEEDS:
        folder = FOLDER / f"seed-{seed}"
        begun = learned(gold, student, folder / "begun", seed, 1, alpha=0)
        own = written(begun, prompts[:TRAINED], seed)
        replayed = answered(teacher, own.tolist(), f"own-{seed}", "faithful", asked_from=PROMPT)
        made = {
            BEGUN: begun,
            GOLD: learned(gold, begun, folder / "gold", seed, EPOCHS, alpha=0),
            TAUGHT: learned(gold, begun, folder / "taught", seed, EPOCHS),
            REPLAYED: learned(replayed, begun, folder / "replayed", seed, EPOCHS),
        }
        for way, place in made.items():
            line = {"way": way, "seed": seed, **judged(unseen, place)}
            line["kl_on_own_texts"] = apart(judge, place, prompts[-JUDGED:], seed)
            console.print(json.dumps(line), highlight=False, soft_wrap=True)
            students.append(line)
    save("replay", lines_of(students), students=students, epochs=EPOCHS, texts=TRAINED, tokens=LENGTH)


def spans(tokenizer: Any) -> list[list[int]]:
    """Return the beginnings of so many topics, those with LENGTH tokens."""
    found_ids = []
    for _, text in sorted(pydoc_data.topics.topics.items()):
        ids = tokenizer(text)["input_ids"][:LENGTH]
        if len(ids) == LENGTH:
            found_ids.append(ids)
    return found_ids[: TRAINED + JUDGED]


def answered(teacher: str, texts: list[list[int]], name: str, preset: str, asked_from: int = 0) -> Cache:
    """Let the teacher answer about texts, from the token behind a beginning on."""
    data = FOLDER / f"{name}.jsonl"
    lines = [{"input_ids": ids, "completion_mask": [int(at >= asked_from) for at in range(len(ids))]} for ids in texts]
    data.write_text("\n".join(map(json.dumps, lines)) + "\n")
    plan: dict[str, Any] = {"teacher": teacher, "data": str(data), "out": FOLDER / f"cache-{name}", "preset": preset}
    return dump(DumpSettings(**plan, max_length=LENGTH, samples_per_part=64, device="cpu"))


def learned(cache: Cache, student: Path, out: Path, seed: int, epochs: int, **options: Any) -> Path:
    """Train a student; return where it lies."""
    plan: dict[str, Any] = {"cache": cache.path, "student": str(student), "out": out, "seed": seed, "epochs": epochs}
    usual = {"batch_size": 1, "learning_rate": 2e-4, "holdout": 0, "device": "cpu", "keep_checkpoints": 0}
    train(TrainSettings(**plan | usual | options))
    return out


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def written(student: Path, prompts_MP: torch.Tensor, seed: int) -> torch.Tensor:
    """Return int64[M, LENGTH]: texts that a student goes on with in its own words, drawn at temperature 1."""
    torch.manual_seed(seed)
    more = LENGTH - prompts_MP.shape[1]
    drawn: torch.Tensor = loaded(student).generate(
        prompts_MP,
        attention_mask=torch.ones_like(prompts_MP),
        do_sample=True,
        top_k=0,
        min_new_tokens=more,
        max_new_tokens=more,
        pad_token_id=0,
    )
    return drawn


@torch.no_grad()
def apart(teacher: Any, student: Path, prompts_MP: torch.Tensor, seed: int) -> float:
    """Return the mean of KL(student || teacher) over the tokens that a student writes, nats."""
    texts_MT = written(student, prompts_MP, 1000 + seed)
    model, total, count = loaded(student), 0.0, 0
    for number in range(len(texts_MT)):
        text_1T = texts_MT[number : number + 1]
        own_TV, other_TV = (
            torch.log_softmax(each(text_1T).logits[0, PROMPT - 1 : -1].float(), -1) for each in (model, teacher)
        )
        total += float((own_TV.exp() * (own_TV - other_TV)).sum())
        count += len(own_TV)
    return round(total / count, 5)


def judged(unseen: Cache, student: Path) -> dict[str, float]:
    """Return how good a student is on texts that it did not see."""
    plan: dict[str, Any] = {"cache": unseen.path, "student": str(student), "samples": "all", "dtype": "float32"}
    figures = evaluate(EvaluateSettings(**plan, device="cpu", batch_size=4))
    return {name: round(getattr(figures, name), 5) for name in ("cross_entropy", "kl", "agreement")}


def lines_of(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of all students together."""

    def gap(name: str, of: str, to: str) -> float:
        values = [[line[name] for line in students if line["way"] == way] for way in (of, to)]
        return float(statistics.mean(a - b for a, b in zip(*values, strict=True)))

    return [
        at_least("KL on their own texts: gold tokens over replay", 0, gap("kl_on_own_texts", GOLD, REPLAYED), "nats"),
        at_least("KL on unseen texts: gold tokens over replay", 0, gap("kl", GOLD, REPLAYED), "nats"),
        found("cross-entropy on unseen texts: replay over gold tokens", gap("cross_entropy", REPLAYED, GOLD), "nats"),
        found("KL on unseen texts: replay over the teacher on gold texts", gap("kl", REPLAYED, TAUGHT), "nats"),
    ]


if __name__ == "__main__":
    main()
