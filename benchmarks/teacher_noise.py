"""Measure how much a teacher's answers depend on batching, and what a tail shape gains: SmolLM2 on the Python language
reference.

Run with `python benchmarks/teacher_noise.py` after `make demo` has installed the teacher; writes results/teacher_noise.json.
"""

from __future__ import annotations

import json
import platform
import pydoc_data.topics
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from demo import find_teacher
from logitstore.core.types import ModelRef
from logitstore.dump.ask import ask_rows
from logitstore.dump.sparsify.prior import prior_of
from logitstore.dump.sparsify.reduce import RowReducer
from logitstore.dump.sparsify.sketch import TailPilot
from logitstore.dump.sparsify.topk import TopK
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.format.needs import LOGITS
from logitstore.models.load import load_config, load_tokenizer
from logitstore.targets.dense import dense_logprobs
from logitstore.targets.rows import split
from logitstore.targets.tails import FixedTail
from logitstore.targets.targets import Targets
from logitstore.text.lines.shown import collate, text_batches
from logitstore.text.sample import Sample

RESULTS = Path(__file__).parent / "results" / "teacher_noise.json"
DOCUMENTS = slice(40, 64)
LENGTH = 200
K = 16
WANTS = frozenset({LOGITS})


def main() -> None:
    model = ModelRef.parse(find_teacher())
    config, tokenizer = load_config(model), load_tokenizer(model)
    texts = [pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics)][DOCUMENTS]
    samples = [make_sample(number, tokenizer(text)["input_ids"][:LENGTH]) for number, text in enumerate(texts)]
    sparsifier = TopK(k=K, vocabulary=len(tokenizer))
    lines: list[dict[str, Any]] = []
    for dtype in ("float32", "bfloat16"):
        teacher = CausalTeacher(model, config, dtype, "cpu")
        alone = answers(teacher, sparsifier, samples, 1)
        for budget in (600, 2048):
            lines.append(
                {
                    "dtype": dtype,
                    "batch_tokens": budget,
                    **differences(alone, answers(teacher, sparsifier, samples, budget)),
                }
            )
            print(lines[-1])
    shapes = tail_shapes(teacher, sparsifier, samples)
    print(shapes)
    content = {
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "transformers", "logitstore")},
        "batching": lines,
        "tail_shapes_bfloat16": shapes,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def make_sample(number: int, tokens: list[int]) -> Sample:
    mask = np.ones(len(tokens), np.bool_)
    mask[-1] = False
    return Sample(key="", tokens_T=np.array(tokens), mask_T=mask, document=number)


def answers(teacher: CausalTeacher, sparsifier: TopK, samples: list[Sample], budget: int) -> dict[str, np.ndarray]:
    """Return every row's values, in the order of the samples."""
    fields_of: dict[int, dict[str, np.ndarray]] = {}
    keep = RowReducer(sparsifier=sparsifier, wants=WANTS, vocabulary=sparsifier.vocabulary, latents=None, check=None)
    for batch, targets in ask_rows(teacher, keep, text_batches(samples, budget)):
        fields_of |= {index: answer.fields for index, answer in split(batch, targets())}
    return {name: np.concatenate([fields_of[index][name] for index in range(len(samples))]) for name in fields_of[0]}


def differences(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> dict[str, float]:
    gold = np.abs(a["gold_logprob"] - b["gold_logprob"])
    return {
        "rows": len(gold),
        "gold_logprob_max": float(gold.max()),
        "gold_logprob_median": float(np.median(gold)),
        "tail_logmass_max": float(np.abs(a["tail_logmass"] - b["tail_logmass"]).max()),
        "top1_logprob_max": float(np.abs(a["logprobs"][:, 0] - b["logprobs"][:, 0]).max()),
        "same_top1": float((a["ids"][:, 0] == b["ids"][:, 0]).mean()),
    }


@torch.inference_mode()
def tail_shapes(teacher: CausalTeacher, sparsifier: TopK, samples: list[Sample]) -> dict[str, Any]:
    """Return the KL of the full distribution to the stored one on the second half of the samples, with tails fitted on the
    first half."""
    half = len(samples) // 2
    vocabulary = sparsifier.vocabulary
    weighted, normalised_V = TailPilot(vocabulary), torch.zeros(vocabulary, dtype=torch.float64)
    for index in range(half):
        for chunk in teacher.rows(collate(samples, [index]), WANTS):
            ids_NK = sparsifier(chunk.logits_nV, chunk.gold_n)["ids"]
            weighted.add(chunk.logits_nV, ids_NK)
            tail_NV = torch.softmax(chunk.logits_nV.float(), -1).scatter_(1, ids_NK, 0.0)
            normalised_V += (tail_NV / tail_NV.sum(-1, keepdim=True)).sum(0).double()
    tails = {
        "prior": FixedTail.prior(weighted.prior()),
        "mean of normalised tails": FixedTail.prior(prior_of(normalised_V)),
        "uniform": FixedTail.uniform(vocabulary),
    }
    sums = {name: {1.0: 0.0, 2.0: 0.0} for name in tails}
    rows = 0
    for index in range(half, len(samples)):
        for chunk in teacher.rows(collate(samples, [index]), WANTS):
            kept = sparsifier(chunk.logits_nV, chunk.gold_n)
            rows += len(chunk.gold_n)
            for name, tail in tails.items():
                targets = Targets(kept["ids"], kept["logprobs"], kept["tail_logmass"], tail)
                for temperature in (1.0, 2.0):
                    full = torch.log_softmax(chunk.logits_nV.double() / temperature, -1)
                    stored = dense_logprobs(targets, temperature).double()
                    sums[name][temperature] += float((full.exp() * (full - stored)).sum())
    kl = {
        name: {f"kl_t{temperature:.0f}": total / rows for temperature, total in each.items()}
        for name, each in sums.items()
    }
    return {"fitted_on_rows": weighted.rows, "judged_on_rows": rows, **kl}


if __name__ == "__main__":
    main()
