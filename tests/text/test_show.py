"""What a person sees of a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.report.tokens import view
from tests.parts.commands import Command
from tests.parts.texts import TEXTS, plan_for

CHAT = [{"role": "user", "content": TEXTS[0][:200]}, {"role": "assistant", "content": "It is a statement."}]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("chats")
    (folder / "chats.jsonl").write_text(json.dumps({"messages": CHAT}) + "\n")
    return dump(plan_for(teacher, folder / "chats.jsonl", folder / "cache", domain_column=None, max_length=400))


@pytest.mark.parametrize("tokens", [1, 4, 1000])
def test_a_chat_is_shown_from_its_first_row_on(chats: logitstore.Cache, tokens: int) -> None:
    sample = chats[0].sample
    first = int(sample.positions_N[0])
    assert first > 40
    views = view(chats, 0, tokens, 1)
    assert len(views) == min(tokens, len(sample.tokens_T) - first)
    assert [each.left_out for each in views] == [first] + [0] * (len(views) - 1)
    assert [each.entropy is None for each in views] == [True] + [False] * (len(views) - 1)


def test_a_plain_text_is_shown_from_its_first_token_on(cache: logitstore.Cache) -> None:
    views = view(cache, 0, 4, 1)
    assert [each.left_out for each in views] == [0] * 4
    assert [each.entropy is None for each in views] == [True, False, False, False]


def test_inspect_says_how_much_context_it_leaves_out(
    chats: logitstore.Cache, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("inspect", chats.path, "--sample", 0) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "context" in line]
    assert len(lines) == 2
    assert f"{int(chats[0].sample.positions_N[0])} tokens of context left out" in lines[0]
    assert command("inspect", chats.path, "--sample", 0, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["left_out"] == int(chats[0].sample.positions_N[0])
