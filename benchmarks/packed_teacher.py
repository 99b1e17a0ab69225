"""Compare a teacher that is shown several texts in a line with one that is shown texts of similar length, padded.

Run with `python benchmarks/packed_teacher.py` (two minutes); writes results/packed_teacher.json. Both ways are timed in turn
in one run, on the same texts: the Python language reference, cut into texts of very different length. The teachers are
SmolLM2-135M and a small model with random weights. The padding of whole parts is counted without a model.
"""

from __future__ import annotations

import json
import pydoc_data.topics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from demo import find_teacher
from logitstore.core.types import ModelRef
from logitstore.dump.teachers.causal_lm import CausalTeacher
from logitstore.dump.teachers.teacher import TeacherBatch
from logitstore.models.load import has_bfloat16, load_config, load_tokenizer
from logitstore.text.lines.pack import packed_batches
from logitstore.text.lines.shown import by_length, lines_of_texts, text_batches
from logitstore.text.sample import Sample
from machine import describe_run

RESULTS = Path(__file__).parent / "results" / "packed_teacher.json"
VOCABULARY = 4096
PART = 1024
BUDGETS = (2048, 8192, 32768, 131072)
WAYS: dict[str, Callable[[list[Sample], int], Iterable[TeacherBatch]]] = {
    "buckets": text_batches,
    "packed": lines_of_texts,
}


def main() -> None:
    reference = ModelRef.parse(find_teacher())
    tokenizer, config = load_tokenizer(reference), load_config(reference)
    ids = [tokenizer(text)["input_ids"] for _, text in sorted(pydoc_data.topics.topics.items())]
    small = ModelRef(name="a small model", loaded=small_model(VOCABULARY))
    lines = []
    for called, model, its_config, count, longest, budgets in (
        ("SmolLM2-135M", reference, config, 16, 256, (512, 2048)),
        ("8 layers of 128 channels", small, small.loaded.config, 96, 512, (2048, 8192)),
    ):
        samples = cut(ids, count, longest, its_config.vocab_size)
        for dtype in ("float32", "bfloat16"):
            if model.loaded is not None:
                model.loaded.to(getattr(torch, dtype))
            teacher = CausalTeacher(model, its_config, dtype, "cpu")
            teacher.check_packed()
            rounds = 3 if dtype == "float32" or has_bfloat16(torch.device("cpu")) else 1
            for budget in budgets if dtype == "float32" else budgets[:1]:
                line = {"teacher": called, "dtype": dtype, "batch_tokens": budget, "samples": count, "longest": longest}
                lines.append(line | compared(teacher, samples, budget, rounds))
                print(json.dumps(lines[-1]), file=sys.stderr, flush=True)
    content = {"padding_of_parts": list(padding_of_parts()), "lines": lines}
    RESULTS.write_text(json.dumps({**describe_run(), **content}, indent=1) + "\n")


def padding_of_parts() -> Iterator[dict[str, Any]]:
    """Yield the share of padding in the batches of a part of 1,024 texts, for three spreads of their lengths."""
    random = np.random.default_rng(0)
    spreads = {
        "16 to 1,024 tokens, log-uniform": np.exp(random.uniform(np.log(16), np.log(1024), PART)),
        "median 200 tokens, log-normal, at most 1,024": random.lognormal(np.log(200), 0.9, PART).clip(2, 1024),
        "windows of 1,024 tokens, and one in three shorter": np.where(
            random.random(PART) < 1 / 3, random.uniform(2, 1024, PART), 1024
        ),
    }
    for name, lengths in spreads.items():
        lengths_S = lengths.astype(np.int64)
        for budget in BUDGETS:
            padded = sum(len(batch) * lengths_S[batch[0]] for batch in by_length(lengths_S, budget))
            packed = sum(len(each) * lengths_S[each[0][0]] for each in packed_batches(lengths_S, budget))
            real = lengths_S.sum()
            shares = {"buckets": 1 - real / padded, "packed": 1 - real / packed}
            yield {"lengths": name, "batch_tokens": budget} | {way: round(float(x), 4) for way, x in shares.items()}


def small_model(vocabulary: int) -> LlamaForCausalLM:
    """Return a model so small that attention and the output layer are most of its work."""
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, initializer_range=0.1, **shape)).eval()


def cut(ids: list[list[int]], count: int, longest: int, vocabulary: int) -> list[Sample]:
    """Return texts of 16 to `longest` tokens, log-uniform in length, each from the beginning of a document.

    Ids above a model's vocabulary become others below it.
    """
    random = np.random.default_rng(0)
    samples = []
    for number in range(count):
        tokens = np.array(ids[number % len(ids)]) % vocabulary
        tokens = tokens[: int(np.exp(random.uniform(np.log(16), np.log(longest))))]
        mask = np.arange(len(tokens)) < len(tokens) - 1
        samples.append(Sample(key="", tokens_T=tokens, mask_T=mask, document=number))
    return samples


@torch.inference_mode()
def compared(teacher: CausalTeacher, samples: list[Sample], budget: int, rounds: int) -> dict[str, Any]:
    """Return the padding of both ways, their speed, and how far their answers are from those about each text alone.

    Of several rounds the fastest counts.
    """
    batches = {way: list(make(samples, budget)) for way, make in WAYS.items()}
    real = sum(sample.length for sample in samples)
    found: dict[str, Any] = {"tokens": real}
    for way, each in batches.items():
        found[f"padding_{way}"] = 1 - real / sum(batch.inputs["input_ids"].numel() for batch in each)
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    answers: dict[str, Any] = {}
    for number in range(rounds):
        for way in list(WAYS)[:: 1 if number % 2 else -1]:
            answers[way], took = logits_of(teacher, batches[way], len(samples))
            seconds[way].append(took)
    if rounds > 1:
        best = {way: min(each) for way, each in seconds.items()}
        found |= {f"tokens_per_second_{way}": real / each for way, each in best.items()}
        found["speed_packed_over_buckets"] = best["buckets"] / best["packed"]
    answers["alone"], _ = logits_of(teacher, text_batches(samples, 1), len(samples))
    for way, other in (("packed", "alone"), ("buckets", "alone"), ("packed", "buckets")):
        found[f"{way}_and_{other}"] = apart(answers[way], answers[other])
    return found


def logits_of(teacher: CausalTeacher, batches: Iterable[TeacherBatch], count: int) -> tuple[list[torch.Tensor], float]:
    """Return the logits of the last 64 rows of each sample, which have seen most, and the seconds of the forward passes."""
    kept: list[torch.Tensor] = [torch.zeros(0)] * count
    seconds = 0.0
    for batch in batches:
        began = time.perf_counter()
        logits = teacher.logits(batch.inputs)
        seconds += time.perf_counter() - began
        rows = logits.flatten(0, 1)[batch.rows_N].split(batch.counts)
        for index, each in zip(batch.indices, rows, strict=True):
            kept[index] = each[-64:].float()
    return kept, seconds


def apart(a: list[torch.Tensor], b: list[torch.Tensor]) -> dict[str, float]:
    """Return the largest differences of two answers, in a logit and in a listed logprob, and the share of equal top tokens."""
    logits = logprobs = same = rows = 0.0
    for x, y in zip(a, b, strict=True):
        logits = max(logits, float((x - y).abs().max()))
        top = x.topk(16).indices
        listed = [each.log_softmax(-1).gather(1, top) for each in (x, y)]
        logprobs = max(logprobs, float((listed[0] - listed[1]).abs().max()))
        same += float((x.argmax(-1) == y.argmax(-1)).sum())
        rows += len(x)
    return {"logit": logits, "logprob_of_16": logprobs, "same_top1": same / rows}


if __name__ == "__main__":
    main()
