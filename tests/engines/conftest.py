"""Real engines for tests: a small teacher that they take, servers in processes of their own, and dumps of what they serve."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.parts.texts import PADDED_VOCABULARY, VOCABULARY, save_model, teacher_gguf
from tests.parts.warm import free_port

# vLLM in a test process is one process, which begins within seconds; the default is three
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")

SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 160,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.12,
}
"""vLLM computes attention on a CPU with heads of 32, 64, ... channels."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These libraries warn of much that is not ours."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engines)
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def padded(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A teacher with eight rows beyond its tokens, which have a good share of its probability."""
    return save_model(tmp_path_factory.mktemp("padded"), tokenizer, PADDED_VOCABULARY, **SHAPE)


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A teacher with a row for each token and no more: what a server says of the others cannot be taken out."""
    return save_model(tmp_path_factory.mktemp("plain"), tokenizer, VOCABULARY, **SHAPE)


SERVE = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
params.n_ctx, params.n_parallel = 4096, 4
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
sys.stdin.read()
"""


@pytest.fixture(scope="session")
def gguf() -> str:
    """The real teacher, as folder::file.gguf."""
    found = teacher_gguf()
    assert found is not None
    return found


@contextmanager
def vllm_server(folder: Path, port: int, log: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a model by vLLM until the context ends. Returns when it answers."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--dtype", "float32", "--enforce-eager", "--served-model-name", "teacher"]
    command += ["--kv-cache-memory-bytes", str(1 << 28), *arguments]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(process, port, log)
        yield process
    finally:
        end(process)


@contextmanager
def llama_server(gguf: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Serve a GGUF file until the context ends. Returns when it answers."""
    command = [sys.executable, "-c", SERVE, gguf.replace("::", "/"), str(port)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(process, port, log)
        yield process
    finally:
        end(process)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a server answers."""
    until = time.monotonic() + 400
    while not answers(port):
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"nothing serves:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


def answers(port: int) -> bool:
    """Say whether a server is ready."""
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
        return True
    return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End a server and the processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)
    process.wait()


@pytest.fixture(scope="session")
def port() -> int:
    return free_port()
