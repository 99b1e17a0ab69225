"""Measure what a student gains from each way to keep a row: `python benchmarks/quality.py`. With names of ways, such as
`python benchmarks/quality.py 'small, half gold'`, these alone are measured, and take the place of their earlier lines.

Teacher: SmolLM2-135M-Instruct in bfloat16. Student: a copy of five of its thirty layers. Text: the Python language
reference. Every student sees the same windows in the same order with the same budget; only the targets of the rows differ, or
which positions have a row. Each way goes through the codecs that a dump uses. Students are judged on documents that no student
saw, against the teacher's whole distribution. Finished lines are kept in build/quality.json until all are there, and an
interrupted run resumes from them.

Axes: N rows, D channels, V vocabulary.
"""

from __future__ import annotations

import copy
import json
import pydoc_data.topics
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from demo import find_teacher
from logitstore.core.random import DRAWS, POSITIONS, uniform
from logitstore.core.types import ModelRef
from logitstore.dump.fit import head_tensors
from logitstore.dump.sparsify.reduce import sparsifier_of
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.sparsify.summary import Summary
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.format.positions import share_of
from logitstore.format.presets import row_of
from logitstore.models.head import LinearHead
from logitstore.models.load import load_config, load_tokenizer
from logitstore.targets.decoder import Decoder
from logitstore.targets.shared import latents_of
from logitstore.targets.tails import LatentTail
from logitstore.targets.targets import AnyTargets, Targets
from logitstore.text.positions.choose import highest, lowest
from logitstore.text.sample import key_of
from logitstore.train.objectives import cross_entropy, forward_kl, lumped_kl, renormalised_kl, rowwise
from logitstore.train.students.build import copied
from machine import describe_run

RESULTS = Path(__file__).parent / "results" / "quality.json"
UNFINISHED = Path(__file__).parent.parent / "build" / "quality.json"
WINDOW, TRAIN_WINDOWS, HELD_OUT_WINDOWS, BATCH_WINDOWS = 128, 208, 48, 2
LAYERS, LEARNING_RATE, WARMUP = "5", 5e-4, 0.1
SEEDS = (0, 1, 2)
PILOT_ROWS = 12288


@dataclass(frozen=True)
class Way:
    """A way is one form of keeping a row, with the loss that goes with it, and the weight of the gold tokens of all positions
    beside it."""

    preset: str | None
    settings: dict[str, Any]
    loss: Callable[..., Tensor]
    temperatures: tuple[float, ...] = (1.0, 2.0)
    positions: str | None = None
    gold: float = 0.0


WAYS = {
    "gold tokens only": Way(None, {}, cross_entropy, (1.0,)),
    "live, whole distribution": Way("live", {}, forward_kl),
    "top-16, renormalised": Way("topk", {"k": 16, "tail": "uniform"}, renormalised_kl),
    "top-50, renormalised": Way("topk", {"k": 50, "tail": "uniform"}, renormalised_kl),
    "top-16, lumped tail": Way("topk", {"k": 16, "tail": "uniform"}, lumped_kl, (1.0,)),
    "sampled": Way("sampled", {}, forward_kl, (1.0,)),
    "topk": Way("topk", {}, forward_kl),
    "topk, k = 50": Way("topk", {"k": 50}, forward_kl, (1.0,)),
    "small": Way("small", {}, forward_kl),
    "faithful": Way("faithful", {}, forward_kl),
    "exact": Way("exact", {}, forward_kl),
    "small, half gold": Way("small", {}, forward_kl, (1.0,), gold=0.5),
    "small, half gold, entropy:0.2": Way("small", {}, forward_kl, (1.0,), "entropy:0.2", 0.5),
    "small, half gold, random:0.2": Way("small", {}, forward_kl, (1.0,), "random:0.2", 0.5),
}


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
        return (windows[:, None] * (WINDOW - 1) + torch.arange(WINDOW - 1)).flatten()


def main(names: list[str]) -> None:
    if unknown := set(names) - set(WAYS):
        sys.exit(f"no way is called {', '.join(sorted(unknown))}. There are: {'; '.join(WAYS)}.")
    torch.set_num_threads(2)
    reference = ModelRef.parse(find_teacher())
    teacher = CausalTeacher(reference, load_config(reference), "bfloat16", "cpu")
    vocabulary = load_config(reference).get_text_config().vocab_size
    train, held_out = read_rows(reference, teacher)
    head = teacher.head(vocabulary)
    del teacher
    base = copied(reference, LAYERS).float()
    lines: list[dict[str, Any]] = json.loads(UNFINISHED.read_text()) if UNFINISHED.exists() else []
    done = {(line["objective"], line["train_temperature"], line["seed"]) for line in lines}
    for name in names or WAYS:
        way = WAYS[name]
        todo = [(t, seed) for seed in SEEDS for t in way.temperatures if (name, t, seed) not in done]
        kept_N = kept_by(way, train, head)
        targets = targets_of(way, train, head, vocabulary, kept_N) if todo else None
        for temperature, seed in todo:
            began = time.monotonic()
            student = fit(copy.deepcopy(base), way, targets, train, kept_N, temperature, seed)
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


def kept_by(way: Way, rows: Rows, head: LinearHead) -> Tensor:
    """Return bool[N]: the rows that a way keeps, chosen window by window as a dump chooses them."""
    share, count = share_of(way.positions), WINDOW - 1
    kept_SN = torch.ones(len(rows.tokens_ST), count, dtype=torch.bool)
    if share is None:
        return kept_SN.flatten()
    kept_SN[:] = False
    most = int(share.counts(np.array([count]))[0])
    for window, tokens in enumerate(rows.tokens_ST):
        if share.asks_teacher:
            logits_NV = head.logits(rows.hidden_ND[window * count : (window + 1) * count])
            places = highest(Summary.of(logits_NV, logits_NV.shape[1]).entropy_N.numpy(), most)
        else:
            places = lowest(uniform(key_of(tokens.numpy()), count, 1, POSITIONS)[:, 0], most)
        kept_SN[window, torch.from_numpy(places)] = True
    return kept_SN.flatten()


def targets_of(
    way: Way, rows: Rows, head: LinearHead, vocabulary: int, kept_N: Tensor
) -> Callable[[Tensor], AnyTargets] | None:
    """Pack the targets of every training row as a cache packs them; return a function that decodes some rows.

    Tails are fitted on the first rows that are kept.
    """
    if way.preset is None:
        return None
    none_NK = torch.zeros(len(rows.hidden_ND), 0)
    if way.preset == "live":
        tail = LatentTail(head, torch.zeros(vocabulary))
        return lambda n: Targets(none_NK[n].long(), none_NK[n], torch.zeros(len(n)), tail, rows.hidden_ND[n])
    row = row_of(way.preset, way.settings, vocabulary, head.width)
    sparsifier = sparsifier_of(row)
    pilot = TailPilot(vocabulary, head if row.tail.shape == "sketch" else None)
    pilot_rows = kept_N.nonzero()[:PILOT_ROWS, 0]
    for some in pilot_rows.split(42):
        if row.tail.shape in ("prior", "sketch"):
            logits_NV = head.logits(rows.hidden_ND[some])
            pilot.add(logits_NV, sparsifier(logits_NV, rows.gold_N[some])["ids"], rows.hidden_ND[some])
    shared = {
        "sketch": lambda: pilot.sketch(row.tail.bytes or 0),
        "prior": lambda: {"prior": pilot.prior()},
        "head": lambda: head_tensors(head, rows.hidden_ND[pilot_rows]),
    }.get(row.tail.shape, dict)()
    decoder, latents = Decoder(row, shared), latents_of(row, shared)
    keys = [key_of(tokens.numpy()) for tokens in rows.tokens_ST]
    draws = row.sparsifier.draws or 0
    numbers_ND = torch.from_numpy(np.concatenate([uniform(key, WINDOW - 1, draws, DRAWS) for key in keys]))
    packed: list[dict[str, Tensor]] = []
    for some in torch.arange(len(rows.hidden_ND)).split(42):
        kept = sparsifier(head.logits(rows.hidden_ND[some]), rows.gold_N[some], numbers_ND[some])
        if latents is not None:
            kept["latent"] = latents(rows.hidden_ND[some])
        stored = decoder.codec.encode({name: value.numpy() for name, value in kept.items()})
        packed.append({name: torch.from_numpy(value) for name, value in stored.items()})
    whole = {name: torch.cat([each[name] for each in packed]) for name in packed[0]}
    return lambda n: decoder({name: value[n] for name, value in whole.items()})


def fit(
    student: PreTrainedModel,
    way: Way,
    targets: Callable[[Tensor], AnyTargets] | None,
    rows: Rows,
    kept_N: Tensor,
    temperature: float,
    seed: int,
) -> PreTrainedModel:
    """Train for one pass over the training windows, in an order given by the seed. The loss is a mean over the rows kept;
    where gold tokens count beside it, they do so as in `train`: a mean over all positions."""
    student.train()
    optimizer = torch.optim.AdamW(student.parameters(), LEARNING_RATE, weight_decay=0.0)
    order = torch.randperm(len(rows.tokens_ST), generator=torch.Generator().manual_seed(seed)).split(BATCH_WINDOWS)
    warmup = max(int(WARMUP * len(order)), 1)
    for step, windows in enumerate(order):
        for group in optimizer.param_groups:
            rise, fall = (step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * step / len(order)))
            group["lr"] = LEARNING_RATE * min(rise, fall)
        every = rows.of(windows)
        places = kept_N[every].nonzero()[:, 0]
        numbers = every[places]
        student_RV = logits_of(student, rows.tokens_ST[windows])
        stored = targets(numbers) if targets is not None else None
        gold = rows.gold_N[numbers]

        def loss(logits_nV: Tensor, some: slice, stored: Any = stored, gold: Tensor = gold) -> Tensor:
            if stored is None:
                return cross_entropy(logits_nV, gold[some])
            options = {} if way.loss is lumped_kl else {"temperature": temperature}
            return way.loss(logits_nV, stored[some], **options)

        total = rowwise(loss, student_RV, places).mean()
        if way.gold:
            golds = rows.gold_N[every]

            def of_gold(logits_nV: Tensor, some: slice, golds: Tensor = golds) -> Tensor:
                return cross_entropy(logits_nV, golds[some])

            on_gold = rowwise(of_gold, student_RV, torch.arange(len(every))).mean()
            total = (1 - way.gold) * total + way.gold * on_gold
        total.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return student.eval()


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


def save(lines: list[dict[str, Any]], train: Rows, held_out: Rows, names: list[str]) -> None:
    """Write all lines; of some ways into the lines that are there, with a record of where these were measured."""
    size = {
        "student_layers": int(LAYERS),
        "training_rows": len(train.gold_N),
        "held_out_rows": len(held_out.gold_N),
        "batch_rows": BATCH_WINDOWS * (WINDOW - 1),
    }
    found = describe_run() | {"size": size, "lines": lines}
    if names:
        before = json.loads(RESULTS.read_text())
        if before["size"] != size:
            sys.exit(f"{RESULTS}: its lines are of other sizes. Measure all ways.")
        others = [line for line in before["lines"] if line["objective"] not in names]
        added = [each for each in before.get("added", []) if each["names"] != names]
        added.append(describe_run() | {"names": names})
        found = before | {"added": added, "lines": [*others, *(line for line in lines if line["objective"] in names)]}
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
