"""A server of a tiny model over HTTP that answers as vLLM, SGLang, llama.cpp or OpenAI do, and lies or fails where it is told.

It listens on the loopback; in this process, or in one of its own that can be killed: `python -m tests.parts.lying_server`.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from tests.parts.places import ROOT
from tests.parts.schemas import LIES, MARK, SCHEMAS, Asked, Refused, Said


@dataclass
class Behaviour:
    """How a server behaves; a test may change it while it runs.

    Attributes:
        lie: what it does to its answers; "" for none. One of LIES, or "ignored", "other model", "other tokenizer",
            "wrong lengths", "cut JSON", "HTML", "a list", "redirect".
        honest: so many answers about texts come before the lies.
        fault: a passing failure: a status such as "503", "reset", "cut" or "slow"; "" for none.
        every: which request fails; the same one succeeds when it is asked again.
        retry_after: what such an answer asks to wait.
        key: that it wants; None for none.
        seconds: that an answer about a text takes at least, beside what it computes.
        slots: so many texts are answered at the same time.
        asked: the routes that were asked for.
        keys: the keys that came.
        together: the most requests that were under way at once.
    """

    lie: str = ""
    honest: int = 0
    fault: str = ""
    every: int = 5
    retry_after: str | None = None
    key: str | None = None
    seconds: float = 0.0
    slots: int = 1 << 20
    old_shape: bool = False
    limits: dict[str, int] = field(default_factory=lambda: {"max_logprobs": 400, "logprobs": 400})
    asked: list[str] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    together: int = 0


class TinyModel:
    """A small Llama in float32, and what it says of each text, which is computed once."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
        self.longest = int(self._model.config.max_position_embeddings)
        self.vocabulary = int(self._model.config.vocab_size)
        self._known: dict[tuple[int, ...], np.ndarray] = {}
        self._lock = threading.Lock()

    def logprobs(self, tokens: list[int]) -> np.ndarray:
        """float32[T - 1, V]."""
        key = tuple(tokens)
        with self._lock:
            if key not in self._known:
                with torch.inference_mode():
                    logits_TV = self._model(torch.tensor([tokens])).logits[0, :-1]
                self._known[key] = logits_TV.log_softmax(-1).numpy()
            return self._known[key]

    def said(self, tokens: list[int], count: int) -> Said:
        logprobs_RV = self.logprobs(tokens)
        ids_RK = np.argsort(-logprobs_RV, 1, kind="stable")[:, :count]
        gold_R = logprobs_RV[np.arange(len(tokens) - 1), tokens[1:]]
        return Said(list(tokens), ids_RK, np.take_along_axis(logprobs_RV, ids_RK, 1), gold_R.tolist())


class LyingServer:
    """A server that runs as long as the context does."""

    def __init__(self, engine: str, model: TinyModel, port: int = 0) -> None:
        self.engine, self._model, self.behaviour = engine, model, Behaviour()
        self._slots, self._busy, self._count = threading.Lock(), 0, 0
        self._failed: set[bytes] = set()

        class Handler(_Handler):
            served = self

        self._http = _Http(("127.0.0.1", port), Handler)
        self.port = int(self._http.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> LyingServer:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        self._http.end()

    def serve(self) -> None:
        self._http.serve_forever()

    def answer(self, route: str, body: dict[str, Any], is_lie: bool) -> Any:
        """Return the JSON of an answer; None where there is no such route. Raises Refused."""
        lie = self.behaviour.lie if is_lie else ""
        model, tokenizer = self._model, self._model.tokenizer

        def said(tokens: list[int], count: int) -> Said:
            made = model.said(tokens, count)
            return LIES[lie](made) if lie in LIES else made

        def tokens(text: str) -> list[int]:
            found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
            return [*found[1:], found[0]] if lie == "other tokenizer" else found

        asked = Asked(
            name="another/model" if lie == "other model" else model.name,
            longest=model.longest,
            vocabulary=model.vocabulary,
            said=said,
            tokens=tokens,
            piece=lambda token: tokenizer.decode([token]),
            ignores=lie == "ignored",
            wrong_lengths=lie == "wrong lengths",
            old_shape=self.behaviour.old_shape,
            limits=self.behaviour.limits | {"any_model": lie == "other model"},
        )
        return SCHEMAS[self.engine](route, body, asked)

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Take one of the places of requests that are worked on; gives how many were asked before."""
        while True:
            with self._slots:
                if self._busy < self.behaviour.slots:
                    self._busy += 1
                    self._count += 1
                    self.behaviour.together = max(self.behaviour.together, self._busy)
                    count = self._count
                    break
            time.sleep(0.0002)
        try:
            yield count
        finally:
            with self._slots:
                self._busy -= 1

    def fails(self, count: int, request: bytes) -> bool:
        """Whether this request fails; the same one does so only once."""
        if not self.behaviour.fault or count % self.behaviour.every or request in self._failed:
            return False
        self._failed.add(request)
        return True


class _Http(ThreadingHTTPServer):
    daemon_threads, block_on_close, request_queue_size = True, False, 256

    def __init__(self, *arguments: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no matter, nor half of what it sent."""
        if not isinstance(sys.exception(), OSError | ValueError):
            super().handle_error(request, client_address)

    def end(self) -> None:
        """Close what clients keep open."""
        for each in list(self.open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version, wbufsize, disable_nagle_algorithm = "HTTP/1.1", 1 << 16, True
    served: LyingServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._do({}, b"")

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self._do(json.loads(content), content)

    def _do(self, body: dict[str, Any], content: bytes) -> None:
        behaviour = self.served.behaviour
        behaviour.asked.append(self.path)
        key = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        behaviour.keys.add(key)
        if behaviour.key not in (None, key):
            return self._send(401, json.dumps({"error": f"{MARK} {key}"}).encode())
        with self.served.slot() as count:
            is_about_text = self.path in ("/v1/completions", "/generate", "/completion")
            is_lie = behaviour.asked.count(self.path) > behaviour.honest if is_about_text else not behaviour.honest
            if is_about_text:
                time.sleep(behaviour.seconds)
                if self.served.fails(count, content) and not self._fail(behaviour.fault):
                    return None
            try:
                answer = self.served.answer(self.path, body, is_lie)
            except Refused as refused:
                return self._send(refused.status, json.dumps({"error": {"message": f"{MARK} {key}"}}).encode())
        lie = behaviour.lie if is_lie and is_about_text else ""
        if answer is None:
            return self._send(404, json.dumps({"detail": MARK}).encode())
        if lie == "redirect":
            return self._send(307, b"{}", Location=f"http://127.0.0.1:1/{MARK}")
        sent = json.dumps([answer] if lie == "a list" else answer).encode()
        if lie == "cut JSON":
            sent = sent[: len(sent) // 2]
        return self._send(200, f"<html>{MARK}</html>".encode() if lie == "HTML" else sent)

    def _fail(self, fault: str) -> bool:
        """Fail in passing. Return True where an answer still follows."""
        if fault.isdecimal():
            more = (
                {} if self.served.behaviour.retry_after is None else {"Retry-After": self.served.behaviour.retry_after}
            )
            self._send(int(fault), json.dumps({"error": MARK}).encode(), **more)
        elif fault == "slow":
            time.sleep(1.0)
            return True
        elif fault == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
            self.wfile.flush()
            self.close_connection = True
        elif fault == "reset":
            self.close_connection = True
        return False

    def _send(self, status: int, content: bytes, **more: str) -> None:
        self.send_response(status)
        headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), "X-Note": MARK}
        for name, value in (headers | {name.replace("_", "-"): value for name, value in more.items()}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def served_beside(
    engine: str, folder: Path, port: int = 0, **behaviour: Any
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own; gives the process and its port."""
    command = [sys.executable, "-m", __name__, engine, str(folder), str(port), json.dumps(behaviour)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    engine, folder, port, behaviour = sys.argv[1:]
    torch.set_num_threads(1)
    server = LyingServer(engine, TinyModel(Path(folder)), int(port))
    for name, value in json.loads(behaviour).items():
        setattr(server.behaviour, name, value)
    print(server.port, flush=True)
    server.serve()


if __name__ == "__main__":
    main()
