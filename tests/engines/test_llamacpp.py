"""llama.cpp's server, the real one, with the real teacher as a GGUF file: from dump to student, and a server that is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.engine import ServingChoices
from logitstore.store.checks.verify import verify
from tests.engines.conftest import end, llama_server
from tests.parts.commands import Command, flags_of
from tests.parts.files import tree
from tests.parts.texts import plan_for
from tests.parts.warm import free_port

K = 16

ROWS: dict[str, Any] = {"preset": "topk", "k": K, "tail": "uniform", "max_length": 64, "overlap": 0}
ROWS |= {"samples_per_part": 3, "domain_column": None}


def served(gguf: str, data: Path, out: Path, port: int) -> DumpSettings:
    server = {"engine": "llamacpp", "tokenizer": gguf, "concurrency": 4, "dtype": "auto", "device": "auto"}
    return plan_for(f"http://127.0.0.1:{port}", data, out, **ROWS | server)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [text[:220] for _, text in sorted(topics.items())[:5]]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [json.dumps({"text": text}) for text in [*texts, "Grüße, 你好 🙂 naïve.", "", "a"]]
    path.write_text("\n".join(rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def written(gguf: str, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose server was killed on the way, and asked itself again at the end."""
    folder, port = tmp_path_factory.mktemp("served"), free_port()
    settings = served(gguf, data, folder / "cache", port)
    log = folder / "llama.log"
    with llama_server(gguf, port, log) as server:
        dump(settings.model_copy(update={"parts": "0"}))
        end(server)
        command = [sys.executable, "-m", "logitstore", "dump", *map(str, flags_of(settings))]
        lost = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert lost.returncode == 2
        assert f"http://127.0.0.1:{port}: nobody answers there." in lost.stderr.splitlines()[-1]
    with llama_server(gguf, port, log):
        dump(settings)
        name = f"http://127.0.0.1:{port}"
        again = audit(logitstore.open(settings.out), name, 1.0, engine=ServingChoices(engine="llamacpp", concurrency=4))
        assert again.passed
        assert again.same_weights
    return settings.out


def test_its_rows_are_those_of_transformers_within_its_noise(
    written: Path, gguf: str, data: Path, tmp_path: Path
) -> None:
    assert verify(written) == []
    expected = logitstore.open(dump(plan_for(gguf, data, tmp_path / "own", **ROWS)).path)  # type: ignore[arg-type]
    cache = logitstore.open(written)
    assert cache.keys() == expected.keys()
    found = np.concatenate([cache[index].answer["gold_logprob"] for index in range(len(cache))]).astype(float)
    wanted = np.concatenate([expected[index].answer["gold_logprob"] for index in range(len(cache))]).astype(float)
    assert np.abs(found - wanted).mean() < 0.1
    tops = [
        np.mean(cache[index].answer["ids"][:, 0] == expected[index].answer["ids"][:, 0]) for index in range(len(cache))
    ]
    assert np.mean(tops) > 0.9


def test_it_is_verified_against_transformers_with_a_tolerance(written: Path, gguf: str, command: Command) -> None:
    asked = ("verify", written, "--against-teacher", gguf, "--share", "1", "--device", "cpu")
    assert command(*asked, "--tolerance", "2") == 0
    assert command(*asked, "--tolerance", "0.0001") == 1


def test_a_student_learns_from_it(written: Path, gguf: str, tmp_path: Path, command: Command) -> None:
    steps = ("--max-steps", "3", "--batch-size", "2", "--device", "cpu", "--precision", "float32")
    assert command("train", written, "--student", gguf, "--copy-layers", "1", "--out", tmp_path / "run", *steps) == 0
    assert tree(tmp_path / "run")
