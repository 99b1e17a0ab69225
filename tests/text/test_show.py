"""What a person sees of a text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.report.tokens import view
from tests.parts.commands import Command, Refused
from tests.parts.texts import TEXTS, plan_for
from tests.parts.vision import Told

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


def test_a_dry_run_shows_samples_with_the_tokens_that_have_rows(
    tmp_path: Path, teacher: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "Name\n\x1b[31ma colour."}, {"role": "assistant", "content": "Blue."}]
    rows = [{"messages": turns * 2}, {"messages": turns}, {"messages": turns}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    usual = ("--teacher", teacher, "--data", tmp_path / "chats.jsonl", "--out", tmp_path / "out", "--preset", "topk")
    assert command("dump", *usual, "--max-length", 40, "--overlap", 20, "--dry-run", "--show", 3) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    asked = ["<|user|>Name\u23ce", " " * 21 + "\ufffd[31ma colour.<|end|><|assistant|>"]
    heads = [line for line in lines if line.startswith("sample ")]
    assert heads[0].startswith("sample 0: row 1 of the data, ")
    assert heads[1].startswith("sample 1: row 1 of the data, window 1 from token 20, ")
    assert heads[2].startswith("sample 2: row 2 of the data, ")
    whole = lines[lines.index(heads[2]) + 1 :]
    assert whole[0].split("  ")[-1] == asked[0]
    assert whole[1] == asked[1]
    assert whole[2].split()[0] == "rows"
    assert whole[2].endswith("  Blue.<|end|>")
    assert "data: column 'messages' holds chats; rows about what the assistant says" in shown.err
    (cut,) = [line for line in shown.err.splitlines() if "longer than --max-length 40" in line]
    assert cut.startswith("note: 1 document is longer")
    assert not (tmp_path / "out").exists()
    enough = cut.partition("windows after the first")[2].partition("--max-length ")[2].split()[0]
    assert command("dump", *usual, "--max-length", enough, "--overlap", 20, "--dry-run") == 0
    shown = capsys.readouterr()
    assert f"samples    3 of at most {enough} tokens" in shown.out
    assert "longer than" not in shown.err


def test_a_turn_that_is_rendered_anew_is_shown_as_a_further_sample_of_its_row(
    tmp_path: Path, teacher: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "reasoning_content": "Hm"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns * 2}) + "\n")
    (tmp_path / "thinks.jinja").write_text(
        "{% for message in messages %}{{ message.role }}: {% if loop.last and message.role == 'assistant' %}"
        "{{ message.reasoning_content }}. {% endif %}{{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    usual = ("--teacher", teacher, "--data", tmp_path / "chats.jsonl", "--out", tmp_path / "out", "--preset", "topk")
    thinks = ("--chat-template", tmp_path / "thinks.jinja", "--max-length", 200)
    assert command("dump", *usual, *thinks, "--dry-run", "--show", 2) == 0
    shown = capsys.readouterr()
    heads = [line for line in shown.out.splitlines() if line.startswith("sample ")]
    assert heads[0].startswith("sample 0: row 1 of the data, ")
    assert heads[1].startswith("sample 1: row 1 of the data, its sample 2, ")
    assert "tokenise: 1 of 1 documents" in shown.err


def test_samples_are_shown_by_a_dry_run_of_texts_alone(refused: Refused, refused_image_dump: Told) -> None:
    line = refused("dump", "--teacher", "x", "--data", "y", "--out", "z", "--show", 1)
    assert "--show 1: only --dry-run uses it. Give both." in line
    line = refused_image_dump("--dry-run", "--show", 1)
    assert "--show 1: it means nothing to --task image-classification. Leave it out." in line
