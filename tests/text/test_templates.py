"""A chat template and its arguments that the user gives: rendered, recorded, a part of the plan, and refused without effect."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch
from logitstore.settings.dump import DumpSettings
from logitstore.store.checks.verify import verify
from logitstore.text.tokenizer import template_fingerprint
from tests.parts.commands import Command, Refused
from tests.parts.texts import plan_for

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}]{% if m['role'] == 'assistant' and not (enable_thinking is defined and "
    "enable_thinking is false) %}<hm>{% endif %}{{ m['content'] }}[end]{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [{"role": "user", "content": "What is a tuple?"}, {"role": "assistant", "content": "A sequence."}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    rows: list[dict[str, Any]] = [
        {"messages": CHAT},
        {"messages": CHAT, "chat_template_kwargs": {"enable_thinking": True}},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "own.jinja"
    path.write_text(TEMPLATE, encoding="utf-8")
    return path


def plan(teacher: Path, data: Path, out: Path, **changes: Any) -> DumpSettings:
    return plan_for(teacher, data, out, domain_column=None, **changes)


def expected(tokenizer: PreTrainedTokenizerFast, **arguments: Any) -> list[int]:
    found: list[int] = tokenizer.apply_chat_template(CHAT, chat_template=TEMPLATE, return_dict=False, **arguments)
    return found


@pytest.mark.parametrize("form", ["jinja", "json"])
def test_chats_are_rendered_with_the_template_and_its_arguments(
    teacher: Path, data: Path, template: Path, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, form: str
) -> None:
    if form == "json":
        template = tmp_path / "chat_template.json"
        template.write_text(json.dumps({"chat_template": TEMPLATE}))
    cache = dump(
        plan(teacher, data, tmp_path / "cache", chat_template=template, template_arg=["enable_thinking=false"])
    )
    found = [each.sample.tokens_T.tolist() for each in cache]
    # what a row says comes before what the command says
    assert found == [expected(tokenizer, enable_thinking=False), expected(tokenizer, enable_thinking=True)]
    assert found[0] != found[1]
    kept = next((cache.path / "shared").glob("tokenizer-*/chat_template.jinja"))
    assert kept.read_text(encoding="utf-8") == TEMPLATE
    entries = json.loads((cache.path / "cache.json").read_text())["data"]
    assert entries["chat_template"] == template_fingerprint(TEMPLATE)
    assert entries["template_args"] == {"enable_thinking": False}
    assert verify(cache.path) == []


def test_the_template_and_its_arguments_belong_to_the_plan(
    teacher: Path, data: Path, template: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {"chat_template": template, "template_arg": ["enable_thinking=false"]}
    out = tmp_path / "cache"
    cache = dump(plan(teacher, data, out, **given))
    assert dump(plan(teacher, data, out, **given)).manifest.identity == cache.manifest.identity
    other = tmp_path / "other.jinja"
    other.write_text(TEMPLATE + "{# the same, but for a remark #}")
    for changes in ({}, {"chat_template": template}, given | {"chat_template": other}):
        with pytest.raises(CacheMismatch):
            dump(plan(teacher, data, out, **changes))
    assert command("inspect", out) == 0
    assert "enable_thinking=false" in capsys.readouterr().out


def test_a_cache_of_chats_without_them_has_the_entries_of_before(teacher: Path, data: Path, tmp_path: Path) -> None:
    cache = dump(plan(teacher, data, tmp_path / "cache"))
    assert not {"chat_template", "template_args"} & json.loads((cache.path / "cache.json").read_text())["data"].keys()
    assert logitstore.open(cache.path).manifest == cache.manifest


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("enable_thinkin=false", "Did you mean 'enable_thinking'?"),
        ("tools=[]", "transformers uses this name itself"),
        ("add_generation_prompt=true", "transformers uses this name itself"),
        ("enable_thinking", "NAME=VALUE"),
        ("enable_thinking=False", "enable_thinking=false"),
        ("=1", "is no name"),
        ("enable_thinking=NaN", "JSON cannot hold"),
    ],
)
def test_an_argument_that_cannot_have_its_effect_is_refused(
    refused_dump: Refused, data: Path, template: Path, argument: str, says: str
) -> None:
    line = refused_dump(data=data, chat_template=template, template_arg=argument)
    assert says in line


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"{% for m in messages %}", "no Jinja template: line 1"),
        (b"Hello {{ name }}", "does not read `messages`"),
        (b'{"template": "x"}', "under the key 'chat_template'"),
        (b'{"chat_template": ', "not JSON"),
        (b"{# long #}" * 200_000, "so it is no chat template"),
        ("folder", "not a regular file"),
    ],
    ids=["missing", "binary", "syntax", "no messages", "json", "cut json", "long", "folder"],
)
def test_a_file_that_is_no_template_is_refused(
    refused_dump: Refused, data: Path, tmp_path: Path, content: bytes | str | None, says: str
) -> None:
    path = tmp_path / "given"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    line = refused_dump(data=data, chat_template=path)
    assert str(path) in line
    assert says in line


def test_options_about_chats_are_refused_where_there_are_none(
    refused_dump: Refused, refused_image_dump: Refused, template: Path
) -> None:
    assert "holds no chats" in refused_dump(chat_template=template)
    assert "holds no chats" in refused_dump(template_arg="enable_thinking=false")
    assert "--chat-template" in refused_image_dump("--chat-template", template)
    assert "--template-arg" in refused_image_dump("--template-arg", "a=1")
