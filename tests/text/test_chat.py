"""Chats: only what the assistant said has rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput, ModelError
from logitstore.text.samples import Samples
from tests.parts.documents import open_file
from tests.parts.texts import train_tokenizer

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue, of course."},
    {"role": "user", "content": "Another?"},
    {"role": "assistant", "content": "Grün 🙂"},
]


def chats(folder: Path, values: list[Any]) -> Path:
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in values), encoding="utf-8")
    return path


def said(samples: Samples, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode(sample.gold_N.tolist()) for sample in samples]


def test_only_what_the_assistant_said_has_rows(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    samples = open_file(chats(tmp_path, [CHAT]), tokenizer)
    assert samples.chat
    whole = tokenizer.decode(samples[0].tokens_T.tolist())
    assert whole.startswith("<|system|>Be brief.<|end|><|user|>Name")
    assert said(samples, tokenizer) == ["Blue, of course.<|end|>Grün 🙂<|end|>"]


def test_a_template_that_marks_the_assistant_s_words_gives_the_same_rows(tmp_path: Path) -> None:
    marked = train_tokenizer()
    marked.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% if message['role'] == 'assistant' %}"
        "{% generation %}{{ message['content'] }}<|end|>{% endgeneration %}"
        "{% else %}{{ message['content'] }}<|end|>{% endif %}{% endfor %}"
    )
    samples = open_file(chats(tmp_path, [CHAT, CHAT[:2], [], CHAT[1:3]]), marked)
    assert said(samples, marked) == ["Blue, of course.<|end|>Grün 🙂<|end|>", "Blue, of course.<|end|>"]
    assert samples.skipped == 2


def test_long_chats_are_cut_into_windows_that_keep_the_mask(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    chat = []
    for number in range(12):
        chat.append({"role": "user", "content": f"Q{number}?"})
        chat.append({"role": "assistant", "content": f"Answer {number}."})
    samples = open_file(chats(tmp_path, [chat]), tokenizer)
    assert len(samples) > 1
    assert "".join(said(samples, tokenizer)) == "".join(f"Answer {number}.<|end|>" for number in range(12))


def test_templates_that_rewrite_earlier_turns_are_refused(tmp_path: Path) -> None:
    rewriting = train_tokenizer()
    rewriting.chat_template = (
        "{% for message in messages %}{% if loop.last or message['role'] == 'user' %}"
        "{{ message['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(BadInput, match="generation"):
        open_file(chats(tmp_path, [CHAT]), rewriting)


def test_chats_without_a_template_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no chat template"):
        open_file(chats(tmp_path, [CHAT]), train_tokenizer())
