"""Measure what a dump costs beside its engine, and how far engines are from transformers.

It needs the environment of `make test-engines`: `.venv-engines/bin/python benchmarks/engines.py`. vLLM's own time in this
process is that of its `LLM.encode` for the same prompts all at once, a server's that of a load generator (engines_http.py) that
sends what the dump sends. The teacher is SmolLM2-135M-Instruct, for vLLM with weights in bfloat16 and for llama.cpp the GGUF
file in 4 bits; each side has one thread. An interrupted run resumes with the part that it was at.

Axes: N rows, K entries of a list.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

import json
import pydoc_data.topics
import shutil
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import demo
import engines_http
from bench import at_most, found, ratio, save
from engines_servers import llama_server, vllm_server
from logitstore.core.progress import no_progress
from logitstore.core.types import Array, ModelRef
from logitstore.dump.begin import prepare_parts
from logitstore.dump.dump import dump, open_writer
from logitstore.dump.parts import ANSWERS, write_parts
from logitstore.dump.taps import taps_wanted
from logitstore.dump.task import Prepared, load_teacher
from logitstore.models.load import load_config, load_tokenizer, load_weights
from logitstore.settings.dump import DumpSettings
from logitstore.store.cache import Cache

FOLDER = Path("build/engines")
ROUNDS, TARGET = 3, 1.10
TEXTS, SERVED_TEXTS, LENGTH = 64, 24, 256
"""Of the dumps whose time is measured: in this process, and from vLLM's server. llama.cpp gets the short texts: each token is a
request of its own."""

CONCURRENCY, K = 8, 64
SHORT_TEXTS, SHORT_CHARACTERS, SHORT_LENGTH, NOISE_K = 12, 600, 128, 50

OFF = ": the next token's logprob is off by"

FIRST = "0"
"""The part that is measured. Between two parts the engine waits for the end of the first: of 1,024 texts that is nothing."""


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    demo.TEXTS = FOLDER / "texts.jsonl"
    demo.write_texts()
    model, gguf = saved(FOLDER / "model"), demo.find_teacher()
    lines: list[dict[str, Any]] = []
    for name, measure in (("in_process", in_process), ("noise", noise), ("over_http", over_http)):
        there = FOLDER / f"{name}.json"
        if not there.exists():
            there.write_text(json.dumps(measure(model, gguf)))
        lines += json.loads(there.read_text())
    engines = {name: version(name) for name in ("vllm-cpu", "xllamacpp")}
    save("engines", lines, rounds=ROUNDS, texts=TEXTS, tokens_per_text=LENGTH, engines=engines)
    shutil.rmtree(FOLDER)


def saved(folder: Path) -> Path:
    """Save the packaged teacher as vLLM takes it: unpacked, in bfloat16."""
    ref = ModelRef.parse(demo.find_teacher())
    load_weights(ref, load_config(ref), torch.bfloat16).save_pretrained(folder)
    load_tokenizer(ref).save_pretrained(folder)
    return folder


def short_texts() -> str:
    """Write a few short texts, which are also those whose noise is measured."""
    data = FOLDER / "short.jsonl"
    texts = [text[:SHORT_CHARACTERS] for _, text in sorted(pydoc_data.topics.topics.items())[:SHORT_TEXTS]]
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(data)


def plan(teacher: str, out: str, **changes: Any) -> DumpSettings:
    usual: dict[str, Any] = {
        "teacher": teacher,
        "data": str(demo.TEXTS),
        "out": FOLDER / out,
        "limit": TEXTS,
        "max_length": LENGTH,
        "overlap": 0,
        "samples_per_part": TEXTS,
        "batch_tokens": 1024,
        "pilot_rows": 512,
        "fidelity_rows": 0,
    }
    return DumpSettings(**usual | changes)


def in_vllm(model: Path, out: str, **changes: Any) -> DumpSettings:
    return plan(f"vllm:{model}", out, engine_arg={"enforce_eager": True}, **changes)


def in_process(model: Path, gguf: str) -> list[dict[str, Any]]:
    """Return the lines of vLLM in this process: dumps of two presets beside the engine's own time; the ways take turns."""
    settings = in_vllm(model, "small", dtype="float32", preset="small", rounding="nearest", parts=FIRST)
    prepared = prepare_parts(settings)
    prompts = [sample.tokens_T.tolist() for sample in first_of(prepared)]
    seconds: dict[str, list[float]] = {"engine": [], "small": [], "topk": []}
    with closing(load_teacher(prepared, no_progress)) as teacher:
        for number in range(ROUNDS + 1):
            took = {"engine": engine_seconds(teacher, prompts)}
            for preset in ("small", "topk"):
                took[preset] = dump_seconds(
                    in_vllm(model, preset, dtype="float32", preset=preset, parts=FIRST), teacher
                )
            if number:  # the first round warms up
                for name, value in took.items():
                    seconds[name].append(value)
    tokens = sum(map(len, prompts))
    return [
        found("vLLM in this process, its own time", tokens / statistics.median(seconds["engine"]), "tokens/s", tokens=tokens),
        *(
            at_most(f"vLLM in this process: a dump, preset {preset}, over the engine's own time", TARGET,
                    ratio(seconds, preset, "engine"), seconds=seconds[preset], engine_seconds=seconds["engine"])
            for preset in ("small", "topk")
        ),
    ]  # fmt: skip


def first_of(prepared: Prepared) -> list[Any]:
    """Return the samples of the measured parts."""
    return [prepared.samples[number] for number in range(prepared.manifest.span(0).stop)]


def engine_seconds(teacher: Any, prompts: list[list[int]]) -> float:
    """Return how long vLLM takes for the hidden states of all prompts, given at once."""
    llm, vllm = teacher._engine._llm, teacher._vllm
    asked = [{"prompt_token_ids": tokens} for tokens in prompts]
    pooling = vllm.PoolingParams(task="token_embed", use_activation=False)
    began = time.perf_counter()
    said = llm.encode(asked, pooling, pooling_task="token_embed", use_tqdm=False)
    seconds = time.perf_counter() - began
    if [len(each.outputs.data) for each in said] != [*map(len, prompts)]:
        raise RuntimeError("vLLM did not answer about every token")
    return seconds


def dump_seconds(settings: DumpSettings, teacher: Any) -> float:
    """Return the seconds that parts take, from their first question to their last commit; the tail is fitted before."""
    shutil.rmtree(settings.out, ignore_errors=True)
    prepared = prepare_parts(settings)
    writer = open_writer(settings, prepared, teacher, taps_wanted(settings, prepared.config))
    began = time.perf_counter()
    write_parts(writer, {part: [ANSWERS] for part in range(1)}, "dump", no_progress)
    return time.perf_counter() - began


def over_http(model: Path, gguf: str) -> list[dict[str, Any]]:
    """Return the lines of dumps from servers beside a load generator at the same concurrency."""
    lists = {"preset": "topk", "k": K, "tail": "uniform", "concurrency": CONCURRENCY}
    with vllm_server(model, K, FOLDER / "server.log") as url:
        settings = plan(f"{url}#teacher", "http", engine="vllm", tokenizer=str(model), **lists, limit=SERVED_TEXTS)
        of_vllm = engines_http.compared(settings, ROUNDS)
    with llama_server(gguf, CONCURRENCY, 1024, FOLDER / "server.log") as url:
        settings = plan(url, "http", engine="llamacpp", tokenizer=gguf, data=short_texts(), **lists)
        of_llama = engines_http.compared(settings, ROUNDS)
    return [line for name, about in (("vLLM's server", of_vllm), ("llama.cpp's server", of_llama)) for line in (
        found(f"{name} under a load generator, its own time", about["tokens"] / about["load_seconds"], "tokens/s"),
        at_most(f"{name}: a dump with {K} entries over the load generator", TARGET, about.pop("ratio"), **about),
    )]  # fmt: skip


@dataclass(frozen=True)
class Kept:
    """What a cache keeps of rows: the listed tokens int64[N, K], their logprobs float64[N, K], and those of the tokens that
    follow, float64[N]."""

    ids_NK: Array
    logprobs_NK: Array
    gold_N: Array


def noise(model: Path, gguf: str) -> list[dict[str, Any]]:
    """Return how far engines are from transformers in float32 with the same weights."""
    about = {"data": short_texts(), "max_length": SHORT_LENGTH, "k": NOISE_K, "preset": "topk", "tail": "uniform"}
    exact = {dtype: kept(plan(str(model), "noise", dtype=dtype, **about)) for dtype in ("float32", "bfloat16")}
    of_vllm = {dtype: kept(in_vllm(model, "noise", dtype=dtype, **about)) for dtype in ("float32", "bfloat16")}
    unpacked = kept(plan(gguf, "noise", dtype="float32", **about))
    with llama_server(gguf, CONCURRENCY, 1024, FOLDER / "server.log") as url:
        served = plan(url, "noise", engine="llamacpp", tokenizer=gguf, concurrency=CONCURRENCY, **about)
        of_llama = kept(served)
    return [
        apart("vLLM in this process, in float32", of_vllm["float32"], exact["float32"]),
        apart("vLLM in this process, in bfloat16", of_vllm["bfloat16"], exact["float32"]),
        apart("transformers itself in bfloat16", exact["bfloat16"], exact["float32"]),
        apart("llama.cpp, the GGUF file in 4 bits as it is", of_llama, unpacked),
    ]


def kept(settings: DumpSettings) -> Kept:
    shutil.rmtree(settings.out, ignore_errors=True)
    cache = Cache(dump(settings).path)
    samples = [cache[number].answer for number in range(len(cache))]
    return Kept(*(np.concatenate([each[name] for each in samples]).astype(kind)
                  for name, kind in (("ids", int), ("logprobs", float), ("gold_logprob", float))))  # fmt: skip


def apart(name: str, some: Kept, exact: Kept) -> dict[str, Any]:
    """Compare two caches of the same rows. The KL is that over the tokens that the exact one lists; one that the other does not
    list counts as the least probable of its list."""
    apart_N = np.abs(some.gold_N - exact.gold_N)
    kls = []
    for ids_K, own_K, exact_ids_K, exact_K in zip(
        some.ids_NK, some.logprobs_NK, exact.ids_NK, exact.logprobs_NK, strict=True
    ):
        own, least = dict(zip(ids_K.tolist(), own_K.tolist(), strict=True)), float(own_K.min())
        held_K = np.array([own.get(token, least) for token in exact_ids_K.tolist()])
        kls.append(float((np.exp(exact_K) * (exact_K - held_K)).sum()))
    return found(
        f"{name}{OFF}", float(apart_N.mean()), "nats",
        p99=float(np.quantile(apart_N, 0.99)), most=float(apart_N.max()), rows=len(apart_N), kl=statistics.fmean(kls),
        same_first=float((some.ids_NK[:, 0] == exact.ids_NK[:, 0]).mean()),
    )  # fmt: skip


if __name__ == "__main__":
    main()
