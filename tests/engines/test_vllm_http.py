"""vLLM's server, the real one: its rows beside those of transformers, and a dump that goes on after it was killed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from logitstore.settings.models.engine import ServingChoices
from logitstore.store.checks.verify import verify
from tests.engines.conftest import end, vllm_server
from tests.parts.commands import Command, flags_of
from tests.parts.files import tree
from tests.parts.texts import plan_for

K = 8


def served(plain: Path, texts: Path, out: Path, port: int, **changes: object) -> DumpSettings:
    server = {"engine": "vllm", "tokenizer": str(plain), "concurrency": 4, "dtype": "auto", "device": "auto"}
    usual = {"preset": "topk", "k": K, "tail": "uniform", "limit": 16, "samples_per_part": 10}
    teacher = f"http://127.0.0.1:{port}#teacher"
    return plan_for(teacher, texts, out, **server | usual | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(plain: Path, texts: Path, port: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose server was killed on the way, and asked itself again at the end."""
    folder = tmp_path_factory.mktemp("served")
    settings = served(plain, texts, folder / "cache", port)
    log = folder / "vllm.log"
    with vllm_server(plain, port, log, "--max-logprobs", str(K)) as server:
        first = settings.model_copy(update={"parts": "0"})
        assert dump(first).path == settings.out
        end(server)
        command = [sys.executable, "-m", "logitstore", "dump", *map(str, flags_of(settings))]
        lost = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert lost.returncode == 2
        assert f"http://127.0.0.1:{port}: nobody answers there." in lost.stderr.splitlines()[-1]
    with vllm_server(plain, port, log, "--max-logprobs", str(K)):
        dump(settings)
        name = f"http://127.0.0.1:{port}#teacher"
        asked = ServingChoices(engine="vllm", tokenizer=str(plain))
        again = audit(logitstore.open(settings.out), name, 1.0, engine=asked)
        assert again.passed
        assert again.same_weights
    return settings.out


def test_its_rows_are_those_of_transformers(written: Path, plain: Path, texts: Path, tmp_path: Path) -> None:
    assert verify(written) == []
    own = plan_for(plain, texts, tmp_path / "own", preset="topk", k=K, tail="uniform", limit=16, samples_per_part=10)
    cache, expected = logitstore.open(written), logitstore.open(dump(own).path)
    assert cache.keys() == expected.keys()
    assert cache.manifest.teacher.engine is not None
    assert cache.manifest.teacher.engine.noise < 1e-4
    for index in range(len(cache)):
        found, wanted = cache[index].answer, expected[index].answer
        same = found["ids"] == wanted["ids"]
        assert np.mean(same) > 0.99  # two tokens of nearly one probability may change places
        apart = np.abs(found["gold_logprob"].astype(float) - wanted["gold_logprob"].astype(float))
        assert apart.max() <= 1e-4 + 2.0**-10 * np.abs(wanted["gold_logprob"].astype(float)).max()
    found = audit(cache, str(plain), 1.0, device="cpu")
    assert found.passed
    assert found.same_weights is None


def test_a_student_learns_from_it(written: Path, small_student: Path, tmp_path: Path, command: Command) -> None:
    steps = ("--max-steps", "5", "--batch-size", "4", "--device", "cpu", "--precision", "float32")
    assert command("train", written, "--student", small_student, "--out", tmp_path / "run", *steps) == 0
    assert tree(tmp_path / "run")
