"""How much a teacher's word depends on its batching, and what a tail shape is worth: SmolLM2 on the Python language reference.

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
from logitstore.data.tokenizer import load_tokenizer
from logitstore.models import load_config
from logitstore.objectives import Tail, Targets
from logitstore.score import collate, row_logits, score, split
from logitstore.sparsify.prior import UNIFORM_SHARE, PriorFit
from logitstore.sparsify.topk import TopK
from logitstore.targets import dense
from logitstore.teachers.causal_lm import CausalTeacher
from logitstore.types import ModelRef, Sample

RESULTS = Path(__file__).parent / "results" / "teacher_noise.json"
DOCUMENTS = slice(40, 64)
LENGTH = 200
K = 16


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
    """Every row's values, in the order of the samples."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for batch, targets in score(teacher, sparsifier, samples, budget):
        found |= {index: answer.fields for index, answer in split(batch, targets())}
    return {name: np.concatenate([found[index][name] for index in range(len(samples))]) for name in found[0]}


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
    """KL of the full distribution to the stored one on the second half of the samples, tails fitted on the first half."""
    half = len(samples) // 2
    vocabulary = sparsifier.vocabulary
    weighted, normalised_V = PriorFit(vocabulary), torch.zeros(vocabulary, dtype=torch.float64)
    for index in range(half):
        for logits_NV, gold_N in row_logits(teacher, collate(samples, [index])):
            ids_NK = sparsifier(logits_NV, gold_N)["ids"]
            weighted.add(logits_NV, ids_NK)
            tail_NV = torch.softmax(logits_NV.float(), -1).scatter_(1, ids_NK, 0.0)
            normalised_V += (tail_NV / tail_NV.sum(-1, keepdim=True)).sum(0).double()
    mixed_V = (1 - UNIFORM_SHARE) * normalised_V / normalised_V.sum() + UNIFORM_SHARE / vocabulary
    tails = {
        "prior": Tail.prior(weighted.vector()),
        "mean of normalised tails": Tail.prior(mixed_V),
        "uniform": Tail.uniform(vocabulary),
    }
    sums = {name: {1.0: 0.0, 2.0: 0.0} for name in tails}
    rows = 0
    for index in range(half, len(samples)):
        for logits_NV, gold_N in row_logits(teacher, collate(samples, [index])):
            found = sparsifier(logits_NV, gold_N)
            rows += len(gold_N)
            for name, tail in tails.items():
                targets = Targets(found["ids"], found["logprobs"], found["tail_logmass"], tail)
                for temperature in (1.0, 2.0):
                    full = torch.log_softmax(logits_NV.double() / temperature, -1)
                    stored = dense(targets, temperature).double()
                    sums[name][temperature] += float((full.exp() * (full - stored.log())).sum())
    kl = {
        name: {f"kl_t{temperature:.0f}": total / rows for temperature, total in each.items()}
        for name, each in sums.items()
    }
    return {"fitted_on_rows": weighted.rows, "judged_on_rows": rows, **kl}


if __name__ == "__main__":
    main()
