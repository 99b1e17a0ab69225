"""A student's tokenizer may have added tokens that the cache does not know; a chat template may come from a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import logitstore
from logitstore.errors import BadInput, CacheMismatch
from logitstore.models.tokens.tokenizer import check_tokenizer
from logitstore.store.vocabulary import read_pieces
from logitstore.text.tokenizer import LARGEST_TEMPLATE, read_template
from logitstore.train.train import train
from tests.parts.texts import PADDED_VOCABULARY, VOCABULARY, save_model, train_tokenizer
from tests.parts.training import plan_of


@pytest.mark.parametrize("rows", [VOCABULARY + 1, PADDED_VOCABULARY])
def test_a_student_with_a_token_for_padding_trains(rows: int, cache: logitstore.Cache, tmp_path: Path) -> None:
    own = train_tokenizer()
    own.add_special_tokens({"pad_token": "[PAD]"})
    assert len(own) == VOCABULARY + 1
    student = save_model(tmp_path / "student", own, rows, num_hidden_layers=1)
    train(plan_of(cache, tmp_path / "out", student=str(student), max_steps=1))
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path / "out")
    assert saved.pad_token == "[PAD]"


@pytest.mark.parametrize(
    ("make", "fits"),
    [
        (lambda: train_tokenizer(), True),
        (lambda: _with_added(["<a>", "<b>"]), True),
        (lambda: train_tokenizer(VOCABULARY + 40), False),
        (lambda: train_tokenizer(VOCABULARY - 20), False),
    ],
)
def test_more_tokens_are_allowed_where_they_are_added_ones(
    make: Callable[[], Any], fits: bool, cache: logitstore.Cache
) -> None:
    pieces, info = read_pieces(cache).to_pylist(), cache.manifest.text[0]
    if fits:
        check_tokenizer(make(), info, "it", pieces)
        return
    with pytest.raises(CacheMismatch, match="it: its tokenizer is not the cache's: id"):
        check_tokenizer(make(), info, "it", pieces)


def _with_added(tokens: list[str]) -> PreTrainedTokenizerFast:
    made = train_tokenizer()
    made.add_tokens(tokens)
    return made


TEMPLATE = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jinja", TEMPLATE.encode()),
        ("t.jinja", b"\xef\xbb\xbf" + TEMPLATE.encode()),
        ("t.json", json.dumps({"chat_template": TEMPLATE}).encode()),
        ("pipe", json.dumps({"chat_template": TEMPLATE, "eos_token": "</s>"}, indent=2).encode()),
    ],
)
def test_a_template_is_jinja_or_the_json_of_a_model(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert read_template(path) == TEMPLATE


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        (
            "t.jinja",
            b"{% for m in messages %}\n{{ m.content }}",
            "no Jinja template: line 2: Unexpected end of template",
        ),
        ("t.jinja", b"{{ messages | nosuch }}", "No filter named 'nosuch'"),
        ("t.jinja", b"{{ messages }}\xff", "not UTF-8"),
        ("t.jinja", b"\xff\xfe" + TEMPLATE.encode("utf-16-le"), "not UTF-8"),
        ("t.jinja", b"", "does not read `messages`"),
        ("t.jinja", b"Some text about messages.", "does not read `messages`"),
        ("t.jinja", b"{% set messages = [] %}{{ messages }}", "does not read `messages`"),
        ("t.jinja", b"{{ messages }}" + b" " * LARGEST_TEMPLATE, "longer than 1,048,576 characters"),
        ("t.jinja", b"{{ messages " + b"(" * 50_000, "no Jinja template"),
        ("t.json", TEMPLATE.encode(), "not JSON"),
        ("t.txt", json.dumps({"chat_template": TEMPLATE}).encode()[:-2], "not JSON"),
        ("t.json", b"[]", "without a text under the key 'chat_template'"),
        ("t.json", b'{"chat_template": {"default": "x"}}', "without a text under the key 'chat_template'"),
        ("t.json", b'{"chat_template": "{{ messages }}\\ud800"}', "no Jinja template"),
        ("t.json", b"[" * 100_000, "not JSON"),
    ],
)
def test_a_file_that_is_no_template_is_refused_in_one_line(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput) as caught:
        read_template(path)
    message = str(caught.value)
    assert message.startswith(f"--chat-template {path}: ")
    assert why in message
    assert "\n" not in message
    assert len(message) < 600 + len(str(path))


def test_what_is_no_file_to_read_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, why in [
        (tmp_path / "absent", "No such file"),
        (tmp_path, "not a regular file"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/zero"), "not a regular file"),
        (Path("a\0b"), "no path"),
        (tmp_path / ("x" * 300), "name too long"),
    ]:
        with pytest.raises(BadInput, match=f"(?i){why}"):
            read_template(path)
