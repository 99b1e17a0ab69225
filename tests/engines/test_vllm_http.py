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
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.files import tree
from tests.parts.texts import plan_for
from tests.parts.warm import free_port

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
    cache = logitstore.open(written)
    assert cache.manifest.teacher.engine is not None
    assert cache.manifest.teacher.engine.noise < 1e-4
    compare(cache, plain, texts, tmp_path / "own")
    found = audit(cache, str(plain), 1.0, device="cpu")
    assert found.passed
    assert found.same_weights is None


def compare(cache: logitstore.Cache, plain: Path, texts: Path, own: Path) -> None:
    """Compare each row with what transformers says in float32."""
    settings = plan_for(plain, texts, own, preset="topk", k=K, tail="uniform", limit=16, samples_per_part=10)
    expected = logitstore.open(dump(settings).path)
    assert cache.keys() == expected.keys()
    for index in range(len(cache)):
        found, wanted = cache[index].answer, expected[index].answer
        same = found["ids"] == wanted["ids"]
        assert np.mean(same) > 0.99  # two tokens of nearly one probability may change places
        apart = np.abs(found["gold_logprob"].astype(float) - wanted["gold_logprob"].astype(float))
        assert apart.max() <= 1e-4 + 2.0**-10 * np.abs(wanted["gold_logprob"].astype(float)).max()


def test_it_repeats_prompts_with_token_ids_for_the_engine_openai(
    plain: Path, texts: Path, tmp_path: Path, command: Command
) -> None:
    port = free_port()
    settings = served(plain, texts, tmp_path / "cache", port, engine="openai")
    with vllm_server(plain, port, tmp_path / "log", "--max-logprobs", str(K), "--return-tokens-as-token-ids"):
        cache = dump(settings)
        again = ("--against-teacher", f"http://127.0.0.1:{port}#teacher", "--tokenizer", plain, "--engine")
        assert command("verify", settings.out, *again, "openai") == 0
        assert command("verify", settings.out, *again, "vllm", "--tolerance", "0.001") == 0
    assert verify(settings.out) == []
    compare(cache, plain, texts, tmp_path / "own")


def test_parts_of_characters_that_only_texts_name_are_refused_in_one_line(
    plain: Path, texts: Path, tmp_path: Path, refused: Refused
) -> None:
    """As vLLM serves by default; halves of characters are likely in this model, which has random weights."""
    port = free_port()
    with vllm_server(plain, port, tmp_path / "log", "--max-logprobs", str(K)):
        line = refused("dump", *flags_of(served(plain, texts, tmp_path / "cache", port, engine="openai")))
    assert "start it with --return-tokens-as-token-ids" in line
    assert not list((tmp_path / "cache").glob("parts/*"))


def test_a_student_learns_from_it(written: Path, small_student: Path, tmp_path: Path, command: Command) -> None:
    steps = ("--max-steps", "5", "--batch-size", "4", "--device", "cpu", "--precision", "float32")
    assert command("train", written, "--student", small_student, "--out", tmp_path / "run", *steps) == 0
    assert tree(tmp_path / "run")
