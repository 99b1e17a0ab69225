"""Answers of the real servers: generated, gone on after a kill, dumped as recorded, and compared with transformers.

Axes: T tokens, N rows, K entries, V vocabulary.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import logitstore
from logitstore.core.types import ModelRef
from logitstore.models.load import load_config, load_weights
from logitstore.store.checks.verify import verify
from tests.engines.conftest import SHAPE, end, llama_server, vllm_server
from tests.parts.commands import Command
from tests.parts.files import tree
from tests.parts.texts import CHAT_TEMPLATE, VOCABULARY, save_model, train_tokenizer
from tests.parts.warm import free_port

K = 8
PROMPTS = [
    f"What is a {word}? Grüße, 你好 🙂"
    for word in ("tuple", "list", "module", "string", "class", "loop", "byte", "set")
]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An engine, and what its answers are compared with.

    Attributes:
        engine: the name of `--engine`.
        model: the teacher, as transformers loads it.
        serve: starts the server, given the port and the file for its log.
        load: loads the same weights.
        mean, largest: nats that its logprobs are off by.
    """

    engine: str
    model: str
    serve: Callable[[int, Path], AbstractContextManager[subprocess.Popen[bytes]]]
    load: Callable[[], PreTrainedModel]
    mean: float
    largest: float


@pytest.fixture(scope="module", params=["vllm", "llamacpp"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, gguf: str) -> Kind:
    if request.param == "vllm":
        # the probe of a run is one prompt of all probe texts, 609 tokens of this vocabulary
        made, shape = train_tokenizer(), SHAPE | {"max_position_embeddings": 2048}
        made.chat_template = CHAT_TEMPLATE
        plain = save_model(tmp_path_factory.mktemp("chats"), made, VOCABULARY, **shape)
        return Kind(
            engine="vllm",
            model=str(plain),
            serve=lambda port, log: vllm_server(plain, port, log, "--max-logprobs", str(K)),
            load=lambda: AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32),
            mean=1e-4,
            largest=1e-4,
        )
    return Kind(
        engine="llamacpp",
        model=gguf,
        serve=lambda port, log: llama_server(gguf, port, log),
        load=lambda: load_weights(ModelRef.parse(gguf), load_config(ModelRef.parse(gguf)), torch.float32),
        mean=0.15,
        largest=2.0,
    )


@pytest.fixture(scope="module")
def answers(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of answers whose server was killed on the way."""
    folder, port = tmp_path_factory.mktemp(f"answers-{kind.engine}"), free_port()
    prompts, out, log = folder / "prompts.jsonl", folder / "answers", folder / "server.log"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS), "utf-8")
    command = [sys.executable, "-m", "logitstore", "generate", "--teacher", f"http://127.0.0.1:{port}"]
    command += ["--engine", kind.engine, "--tokenizer", kind.model, "--data", str(prompts), "--out", str(out)]
    command += ["--max-new-tokens", "24", "--top-logprobs", str(K), "--concurrency", "2", "--prompts-per-shard", "4"]
    with kind.serve(port, log) as server:
        begun = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while _answered(out) < 3:
            assert begun.poll() is None, begun.communicate()
            time.sleep(0.005)
        end(server)
        time.sleep(0.5)
        kept = _answered(out)
        begun.kill()  # it would wait ten minutes for a server that is gone
        begun.communicate()
        lost = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert lost.returncode == 2
        assert f"http://127.0.0.1:{port}: nobody answers there." in lost.stderr.splitlines()[-1]
    assert 3 <= kept < len(PROMPTS)
    with kind.serve(port, log):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert f"({kept} of {len(PROMPTS)} are answered already)" in done.stderr
    return out


def _answered(out: Path) -> int:
    return sum(journal.read_bytes().count(b"\n") for journal in out.glob("asked/*.journal"))


def test_every_logprob_that_is_kept_is_that_of_transformers(kind: Kind, answers: Path) -> None:
    rows = datasets.load_dataset(str(answers), split="train")
    assert sorted(rows["number"]) == [*range(len(PROMPTS))]
    model = kind.load().eval()
    apart, firsts = [], []
    for row in rows:
        with torch.inference_mode():
            logits_TV = model(input_ids=torch.tensor(row["input_ids"])[None]).logits[0]
        positions_N = np.flatnonzero(row["completion_mask"]) - 1
        direct_NV = logits_TV[positions_N].double().log_softmax(-1).numpy()
        assert len(positions_N) == len(row["ids"]) > 0
        for place, (ids_K, logprobs_K) in enumerate(zip(row["ids"], row["logprobs"], strict=True)):
            assert len(ids_K) == K
            apart.append(np.abs(direct_NV[place, ids_K] - np.array(logprobs_K)))
            firsts.append(ids_K[0] == direct_NV[place].argmax())
        gold_N = np.array(row["input_ids"])[positions_N + 1]
        apart.append(np.abs(direct_NV[np.arange(len(gold_N)), gold_N] - np.array(row["gold_logprobs"])))
    nats = np.concatenate(apart)
    assert nats.mean() < kind.mean
    assert nats.max() < kind.largest
    assert np.mean(firsts) > 0.9


@pytest.fixture(scope="module")
def cached(answers: Path, kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(f"cache-{kind.engine}") / "cache"
    command = [sys.executable, "-m", "logitstore", "dump", "--teacher", f"recorded:{answers}", "--data", str(answers)]
    command += ["--preset", "topk", "-k", str(K), "--tail", "uniform", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return out


def test_the_cache_is_sound_and_agrees_with_the_answers_and_the_weights(
    kind: Kind, answers: Path, cached: Path, command: Command
) -> None:
    assert verify(cached) == []
    assert len(logitstore.open(cached)) == len(PROMPTS)
    again = ("verify", cached, "--share", "1", "--against-teacher")
    assert command(*again, f"recorded:{answers}") == 0
    assert command(*again, kind.model, "--device", "cpu", "--tolerance", "0.001" if kind.engine == "vllm" else "2") == 0


def test_a_student_learns_from_answers(kind: Kind, cached: Path, tmp_path: Path, command: Command) -> None:
    steps = ("--max-steps", "2", "--batch-size", "2", "--device", "cpu", "--precision", "float32")
    student = ("--student", kind.model, "--copy-layers", "1", "--out", tmp_path / "run")
    assert command("train", cached, *student, *steps) == 0
    assert tree(tmp_path / "run")
