"""The students of `quality.py`: the windows of text with the teacher's hidden states, the training of a student, the judge.

Axes: N rows, D channels, S windows, T tokens, V vocabulary.
"""

from __future__ import annotations

import os
import pydoc_data.topics
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from logitstore.core.types import ModelRef
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config, load_tokenizer
from logitstore.targets.targets import AnyTargets
from logitstore.train.objectives import cross_entropy, rowwise
from tails import Corrected

KEPT = Path(__file__).parent.parent / "build" / "quality-rows.pt"
WINDOW, TRAIN_WINDOWS, HELD_OUT_WINDOWS, BATCH_WINDOWS = 128, 208, 48, 2
LEARNING_RATE, WARMUP = 5e-4, 0.1
LAST_BEGINS = 0.7
"""The share of the training after which the last steps begin."""

ROWS = WINDOW - 1
"""Rows of a window."""


class Loss(Protocol):
    """The loss of each of some rows; `stored` is None where the way has no teacher."""

    def __call__(self, logits_nV: Tensor, stored: Any, gold_n: Tensor, temperature: float) -> Tensor:
        """Return float32[n], nats."""


@dataclass(frozen=True)
class Rows:
    """Rows hold windows of tokens and the teacher's final hidden state of every row; rows of a window come together."""

    tokens_ST: Tensor
    hidden_ND: Tensor

    @property
    def gold_N(self) -> Tensor:
        return self.tokens_ST[:, 1:].flatten()

    def of(self, windows: Tensor) -> Tensor:
        """Return int64: the numbers of the rows of some windows."""
        return (windows[:, None] * ROWS + torch.arange(ROWS)).flatten()


def use_threads() -> None:
    """Take as many threads as OMP_NUM_THREADS says, two without it."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


def rows_and_head(reference: ModelRef) -> tuple[Rows, Rows, LinearHead]:
    """Return windows to train on, windows to judge on, and the teacher's head; kept in build/ for the next time."""
    if KEPT.exists():
        found = torch.load(KEPT, weights_only=True)
        return Rows(*found["train"]), Rows(*found["held_out"]), LinearHead(found["head"].float())
    teacher = CausalTeacher(reference, load_config(reference), "bfloat16", "cpu")
    head = teacher.head(load_config(reference).get_text_config().vocab_size)
    train, held_out = read_rows(reference, teacher)
    KEPT.parent.mkdir(exist_ok=True)
    sides = {name: [rows.tokens_ST, rows.hidden_ND] for name, rows in (("train", train), ("held_out", held_out))}
    torch.save(sides | {"head": head.weight_VD}, KEPT)
    return train, held_out, LinearHead(head.weight_VD.float())


def read_rows(reference: ModelRef, teacher: CausalTeacher) -> tuple[Rows, Rows]:
    """Return windows of shuffled documents to train on and to judge on, from different documents."""
    tokenizer = load_tokenizer(reference)
    names = sorted(pydoc_data.topics.topics)
    random.Random(0).shuffle(names)
    windows: list[tuple[str, list[int]]] = []
    for name in names:
        tokens = tokenizer(pydoc_data.topics.topics[name])["input_ids"]
        windows += [(name, tokens[at : at + WINDOW]) for at in range(0, len(tokens) - WINDOW + 1, WINDOW)]
    held = windows[:HELD_OUT_WINDOWS]
    last = held[-1][0]
    rest = [window for window in windows[HELD_OUT_WINDOWS:] if window[0] != last]
    random.Random(1).shuffle(rest)
    train, held_out = ([tokens for _, tokens in some] for some in (rest[:TRAIN_WINDOWS], held))
    return answered(teacher, train), answered(teacher, held_out)


def answered(teacher: CausalTeacher, windows: list[list[int]]) -> Rows:
    """Ask the teacher for its hidden states."""
    tokens_ST = torch.tensor(windows)
    states = []
    for some in tokens_ST.split(8):
        _, hidden_BTD = teacher.logits_and_hidden({"input_ids": some, "attention_mask": torch.ones_like(some)})
        states.append(hidden_BTD[:, :-1].flatten(0, 1).float())
    return Rows(tokens_ST, torch.cat(states))


@dataclass(frozen=True)
class Lesson:
    """What a student learns from.

    Attributes:
        loss: of each row that is kept.
        targets: gives the targets of some rows; None without a teacher.
        kept_N: bool, the rows that are kept.
        gold: weight of the gold tokens of all positions beside the loss.
        last: the loss of the last steps, if it is another one.
    """

    loss: Loss
    targets: Callable[[Tensor], AnyTargets | Corrected] | None
    kept_N: Tensor
    gold: float = 0.0
    last: Loss | None = None

    def at(self, done: float) -> Lesson:
        """Return the lesson at a moment of the training."""
        return replace(self, loss=self.last) if self.last is not None and done >= LAST_BEGINS else self


def fit(student: PreTrainedModel, lesson: Lesson, rows: Rows, temperature: float, seed: int) -> PreTrainedModel:
    """Train for one pass over the training windows, in an order given by the seed. The loss is a mean over the rows kept;
    where gold tokens count beside it, they do so as in `train`: a mean over all positions."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    order = torch.randperm(len(rows.tokens_ST), generator=torch.Generator().manual_seed(seed)).split(BATCH_WINDOWS)
    warmup = max(int(WARMUP * len(order)), 1)
    for step, windows in enumerate(order):
        for group in optimizer.param_groups:
            rise, fall = (step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * step / len(order)))
            group["lr"] = LEARNING_RATE * min(rise, fall)
        loss_of(student, lesson.at(step / len(order)), rows, windows, temperature).backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return student.eval()


def loss_of(student: PreTrainedModel, lesson: Lesson, rows: Rows, windows: Tensor, temperature: float) -> Tensor:
    """Return the loss of some windows."""
    every = rows.of(windows)
    places = lesson.kept_N[every].nonzero()[:, 0]
    numbers = every[places]
    student_RV = logits_of(student, rows.tokens_ST[windows])
    stored = lesson.targets(numbers) if lesson.targets is not None else None
    gold_R = rows.gold_N[every]

    def loss(logits_nV: Tensor, some: slice) -> Tensor:
        return lesson.loss(logits_nV, None if stored is None else stored[some], gold_R[places][some], temperature)

    total_N = rowwise(loss, student_RV, places)
    if not lesson.gold:
        return total_N.mean()
    gold_G = rowwise(
        lambda logits_nV, some: cross_entropy(logits_nV, gold_R[some]), student_RV, torch.arange(len(every))
    )
    return (1 - lesson.gold) * total_N.mean() + lesson.gold * gold_G.mean()


def logits_of(student: PreTrainedModel, tokens_BT: Tensor) -> Tensor:
    """Return [N, V], the logits of every row, in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16):
        logits_BTV: Tensor = student(input_ids=tokens_BT, use_cache=False).logits
    return logits_BTV[:, :-1].flatten(0, 1)


@torch.no_grad()
def judge(
    student: PreTrainedModel, rows: Rows, head: LinearHead, name: str, temperature: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield held-out KL to the teacher's whole distribution at temperatures 1 and 2, and cross-entropy, one line a
    temperature."""
    sums = dict.fromkeys((1.0, 2.0), 0.0)
    nll = 0.0
    for windows in torch.arange(len(rows.tokens_ST)).split(4):
        student_NV, numbers = logits_of(student, rows.tokens_ST[windows]), rows.of(windows)
        for some in torch.arange(len(numbers)).split(42):
            logits_nV, teacher_nV = student_NV[some].float(), head.logits(rows.hidden_ND[numbers[some]])
            nll += float(cross_entropy(logits_nV, rows.gold_N[numbers[some]]).sum())
            for at in sums:
                p, s = torch.log_softmax(teacher_nV / at, -1), torch.log_softmax(logits_nV / at, -1)
                sums[at] += float((p.exp() * (p - s)).sum())
    count = len(rows.gold_N)
    for at, total in sums.items():
        yield {
            "objective": name,
            "train_temperature": temperature,
            "temperature": at,
            "seed": seed,
            "kl": round(total / count, 5),
            "cross_entropy": round(nll / count, 5),
        }
