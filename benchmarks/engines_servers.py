"""Start the engines' servers that engines.py measures, each in a process of its own, with one thread and a free port."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LLAMA = """
import sys
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
params.n_ctx, params.n_parallel, params.kv_unified, params.verbosity = int(sys.argv[4]), int(sys.argv[3]), False, 0
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
sys.stdin.read()
"""


@contextmanager
def vllm_server(model: Path, entries: int, log: Path) -> Iterator[str]:
    """Serve a model by vLLM in float32 until the context ends; gives the address."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--dtype", "float32", "--enforce-eager", "--served-model-name", "teacher", "--max-model-len", "2048"]
    command += ["--kv-cache-memory-bytes", str(1 << 30), "--max-logprobs", str(entries)]
    port = free_port()
    with _serving([*command, "--port", str(port)], port, log) as url:
        yield url


@contextmanager
def llama_server(gguf: str, slots: int, tokens_per_text: int, log: Path) -> Iterator[str]:
    """Serve a GGUF file (`folder::file.gguf`) by llama.cpp until the context ends; gives the address."""
    port = free_port()
    command = [
        sys.executable,
        "-c",
        LLAMA,
        gguf.replace("::", "/"),
        str(port),
        str(slots),
        str(slots * tokens_per_text),
    ]
    with _serving(command, port, log) as url:
        yield url


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def _serving(command: list[str], port: int, log: Path) -> Iterator[str]:
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not _answers(url):
            if process.poll() is not None:
                raise RuntimeError(log.read_text(errors="replace")[-2000:])
            time.sleep(0.5)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def _answers(url: str) -> bool:
    with suppress(urllib.error.URLError, OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
        return True
    return False
