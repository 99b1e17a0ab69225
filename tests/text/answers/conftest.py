"""A chat server of the tiny teacher, and prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from logitstore.settings.models.generate import GenerateSettings
from logitstore.text.answers.generate import generate
from logitstore.text.answers.run import Generated
from tests.parts.chat_server import ChatServer

PROMPTS = ["say: Grüße, 你好, 🙂!", "What is a tuple?", "Name one keyword.", "say: it is.", "And now?", "Say more."]


@pytest.fixture(scope="module")
def _server(teacher: Path) -> Iterator[ChatServer]:
    with ChatServer(teacher) as server:
        yield server


@pytest.fixture
def server(_server: ChatServer) -> ChatServer:
    """An honest server that was asked nothing yet."""
    _server.behaviour = type(_server.behaviour)()
    return _server


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in PROMPTS), "utf-8")
    return path


Make = Callable[..., GenerateSettings]


@pytest.fixture
def settings(server: ChatServer, teacher: Path, prompts: Path, tmp_path: Path) -> Make:
    def make(**changes: Any) -> GenerateSettings:
        usual = {
            "teacher": f"{server.url}/v1#tiny",
            "tokenizer": str(teacher),
            "data": str(prompts),
            "out": tmp_path / "answers",
            "max_new_tokens": 24,
            "prompts_per_shard": 4,
            "concurrency": 3,
        }
        return GenerateSettings(**usual | changes)

    return make


@pytest.fixture
def generated(settings: Make) -> Callable[..., Generated]:
    return lambda **changes: generate(settings(**changes))
