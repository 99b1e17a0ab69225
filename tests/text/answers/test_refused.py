"""Requests that a chat server refuses, for good or in passing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from logitstore.dump.engines.servers import wire
from logitstore.errors import ModelError
from logitstore.text.answers.generate import generate
from logitstore.text.answers.run import Generated
from tests.parts.chat_server import MARK, ChatServer
from tests.text.answers.conftest import PROMPTS, Make

Run = Callable[..., Generated]


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (400, "it refuses POST /v1/chat/completions (status 400)"),
        (401, "it refuses the key in OPENAI_API_KEY (status 401)"),
        (404, "it has no POST /v1/chat/completions (status 404)"),
    ],
)
def test_a_refusal_is_one_line_without_what_the_server_says(
    settings: Make,
    server: ChatServer,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    says: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    server.behaviour.status = status
    with pytest.raises(ModelError) as caught:
        generate(settings())
    assert says in str(caught.value)
    assert MARK not in str(caught.value)
    assert "very-secret" not in str(caught.value)


def test_a_prompt_that_alone_is_refused_is_left_out(generated: Run, server: ChatServer) -> None:
    server.behaviour.refused = PROMPTS[2]
    found = generated()
    assert (found.answers, dict(found.left_out)) == (5, {"the server refuses the prompt": 1})


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_passing_failure_is_tried_again(
    generated: Run, server: ChatServer, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(wire, "FIRST_PAUSE", 0.01)
    server.behaviour.status, server.behaviour.then = status, 2
    assert generated(limit=2).answers == 2
    assert len(server.behaviour.asked) == 5
