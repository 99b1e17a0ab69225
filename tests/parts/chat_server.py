"""A server of a tiny model with chat completions, on the loopback: honest, or as a test has it lie.

What a user says after `say: ` is the answer; to anything else the model answers in ASCII, drawn with the seed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

MARK = "a-mark-of-the-server"
"""Stands in every refusal, and must be in no message."""


@dataclass
class Behaviour:
    """How the server behaves; a test may change it while it runs.

    Attributes:
        change: what it does to an answer before it is sent; gets the request too.
        status: refuses with it, where it is given; `then` so many times, else for ever.
        refused: the one text that it answers with a status of 400.
        key: that it wants.
        most: the longest list that it gives.
        lists_end: whether the token that ends an answer is among its tokens, as with vLLM, or only counted, as with OpenAI.
        as_ids: spell tokens as vLLM does with return_tokens_as_token_ids.
        sharper: logprobs are those after this temperature.
        seconds: that an answer takes.
        asked: the bodies of all requests.
        keys: that came.
    """

    change: Callable[[dict[str, Any], dict[str, Any]], None] = lambda answer, body: None
    status: int | None = None
    then: int = 1 << 30
    refused: str | None = None
    key: str | None = None
    most: int = 20
    lists_end: bool = False
    as_ids: bool = False
    sharper: float = 1.0
    seconds: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)


def bytes_of_tokens(tokenizer: Any, count: int) -> list[bytes]:
    """The bytes of each id of a byte-level tokenizer; special tokens stand for their letters."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [each for each in range(256) if each not in plain]
    table = {chr(each): each for each in plain} | {chr(256 + place): each for place, each in enumerate(rest)}
    pieces = tokenizer.convert_ids_to_tokens(list(range(count)))
    special = set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
    return [
        piece.encode() if token in special else bytes(table[character] for character in piece)
        for token, piece in enumerate(pieces)
    ]


class ChatModel:
    """The tiny model, its tokenizer, and what it says after some tokens."""

    def __init__(self, folder: Path) -> None:
        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self.bytes_V = bytes_of_tokens(self.tokenizer, len(self.tokenizer))
        self.end = int(self.tokenizer.eos_token_id)
        self._lock = threading.Lock()

    def logprobs(self, tokens: list[int]) -> np.ndarray:
        """float64[V] after the last token, without the padding of the output layer."""
        with self._lock, torch.inference_mode():
            logits_V = self.model(torch.tensor([tokens])).logits[0, -1, : len(self.bytes_V)]
        return logits_V.double().log_softmax(-1).numpy()

    def prompt(self, body: dict[str, Any]) -> list[int]:
        more = body.get("chat_template_kwargs", {})
        text = self.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True, **more)
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def drawn(self, body: dict[str, Any], sample: int, prompt: list[int]) -> tuple[list[int], list[np.ndarray], str]:
        """An answer: its tokens, the logprobs in each place, and why it ends."""
        said = body["messages"][-1]["content"]
        forced = [*self.tokenizer(said[5:])["input_ids"], self.end] if said.startswith("say: ") else None
        ascii_V = np.array([each.isascii() and token > self.end for token, each in enumerate(self.bytes_V)])
        seeds = np.random.default_rng([body.get("seed") or 0, sample])
        tokens: list[int] = []
        rows: list[np.ndarray] = []
        while len(tokens) < body["max_tokens"]:
            rows.append(self.logprobs(prompt + tokens))
            if forced is not None:
                tokens.append(forced[len(tokens)])
            elif len(tokens) >= 3 and seeds.random() < 0.15:
                tokens.append(self.end)
            else:
                scaled_V = np.where(ascii_V, rows[-1] / max(body["temperature"], 1e-3), -np.inf)
                odds_V = np.exp(scaled_V - scaled_V.max())
                tokens.append(int(seeds.choice(len(odds_V), p=odds_V / odds_V.sum())))
            if tokens[-1] == self.end:
                return tokens, rows, "stop"
        return tokens, rows, "length"


class ChatServer:
    """A server that runs as long as the context does."""

    def __init__(self, folder: Path) -> None:
        self.model, self.behaviour, self._lock = ChatModel(folder), Behaviour(), threading.Lock()

        class Handler(_Handler):
            served = self

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> ChatServer:
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def answers(self) -> list[dict[str, Any]]:
        """The requests that asked for whole answers."""
        return [body for body in self.behaviour.asked if body.get("max_tokens", 0) > 1]

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = self.model.prompt(body)
        choices, count = [], 0
        for sample in range(body.get("n", 1)):
            tokens, rows, finish = self.model.drawn(body, sample, prompt)
            count += len(tokens)
            text = b"".join(self.model.bytes_V[token] for token in tokens if token != self.model.end)
            shown = tokens if self.behaviour.lists_end or finish == "length" else tokens[:-1]
            content = [self._listed(token, row, body["top_logprobs"]) for token, row in zip(shown, rows, strict=False)]
            message = {"role": "assistant", "content": text.decode("utf-8", "replace")}
            choices.append(
                {"index": sample, "message": message, "logprobs": {"content": content}, "finish_reason": finish}
            )
        usage = {"prompt_tokens": len(prompt), "completion_tokens": count}
        return {"model": body["model"], "choices": choices, "usage": usage}

    def _listed(self, token: int, logprobs_V: np.ndarray, count: int) -> dict[str, Any]:
        scaled_V = logprobs_V / self.behaviour.sharper
        scaled_V = scaled_V - np.log(np.exp(scaled_V).sum())
        top = np.argsort(-scaled_V, kind="stable")[: min(count, self.behaviour.most)]
        each = [self._token(int(place), float(scaled_V[place])) for place in top]
        return self._token(token, float(scaled_V[token])) | {"top_logprobs": each}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        content = self.model.bytes_V[token]
        text = f"token_id:{token}" if self.behaviour.as_ids else content.decode("utf-8", "replace")
        return {"token": text, "logprob": logprob, "bytes": [*(text.encode() if self.behaviour.as_ids else content)]}


class _Handler(BaseHTTPRequestHandler):
    protocol_version, served = "HTTP/1.1", None

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        is_list = self.path == "/v1/models"
        self._send(200 if is_list else 404, {"data": [{"id": "tiny"}]} if is_list else {"error": MARK})

    def do_POST(self) -> None:
        server: Any = self.served
        behaviour = server.behaviour
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        behaviour.asked.append(body)
        key = (self.headers["Authorization"] or "").removeprefix("Bearer ")
        behaviour.keys.add(key)
        if behaviour.key not in (None, key):
            return self._send(401, {"error": f"{MARK} {key}"})
        if behaviour.status is not None and behaviour.then > 0:
            behaviour.then -= 1
            return self._send(behaviour.status, {"error": MARK})
        if body["messages"][-1]["content"] == behaviour.refused:
            return self._send(400, {"error": MARK})
        time.sleep(behaviour.seconds)
        answer = server.answer(body)
        behaviour.change(answer, body)
        return self._send(200, answer)

    def _send(self, status: int, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Note", MARK)
        self.end_headers()
        self.wfile.write(content)
