"""Windows, chats and files: from what users have to samples."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from logitstore.batching import by_length
from logitstore.cache.layout import parse_parts
from logitstore.data.documents import DataSpec
from logitstore.data.samples import Encoding, Samples, open_samples
from logitstore.data.windows import cut
from logitstore.errors import BadInput, ModelError
from tests.conftest import train_tokenizer


@given(length=st.integers(0, 400), max_length=st.integers(2, 60), data=st.data())
def test_windows_cover_every_position_once_with_the_most_context(
    length: int, max_length: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, max_length - 1))
    windows = cut(length, max_length, overlap)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    assert rows == list(range(max(length - 1, 0)))
    for window in windows:
        assert window.stop - window.start <= max_length
        for position in range(window.first, window.stop - 1):
            others = [w for w in windows if w.start <= position < w.stop - 1]
            assert window.start == min(other.start for other in others)


@given(length=st.integers(2, 400), max_length=st.integers(2, 60))
def test_without_overlap_only_the_last_position_of_a_window_has_no_row(length: int, max_length: int) -> None:
    windows = cut(length, max_length, 0)
    rows = [position for window in windows for position in range(window.first, window.stop - 1)]
    missing = {window.stop - 1 for window in windows}
    assert rows == [position for position in range(length) if position not in missing]


@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=50), budget=st.integers(1, 500))
def test_teacher_batches_keep_to_the_budget(lengths: list[int], budget: int) -> None:
    batches = by_length(np.array(lengths), budget)
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget for batch in batches)


def test_lists_of_parts_are_read_and_checked() -> None:
    assert parse_parts("0-2, 5,4-4", 6) == [0, 1, 2, 4, 5]
    for text in ("", "a", "3-1", "6", "0-6", "1,,2", "-1"):
        with pytest.raises(BadInput):
            parse_parts(text, 6)


def open_file(path: Path, tokenizer: PreTrainedTokenizerFast, **options: Any) -> Samples:
    return open_samples(
        DataSpec(source=str(path), **options), Encoding(max_length=64, overlap=8), tokenizer, "the teacher"
    )


def written(folder: Path, suffix: str, texts: list[str]) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    elif suffix == ".json":
        path.write_text(json.dumps([{"text": text} for text in texts]), encoding="utf-8")
    elif suffix == ".csv":
        pandas.DataFrame({"text": texts}).to_csv(path, index=False)
    elif suffix == ".tsv":
        pandas.DataFrame({"text": texts}).to_csv(path, index=False, sep="\t")
    elif suffix == ".parquet":
        pandas.DataFrame({"text": texts}).to_parquet(path)
    elif suffix == ".arrow":
        table = pyarrow.table({"text": texts})
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    return path


TEXTS = ["The quick brown fox, jumps.", 'Über "naïve" 你好 🙂', "a b c d e f"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow"])
def test_all_kinds_of_files_give_the_same_samples(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, suffix: str
) -> None:
    samples = open_file(written(tmp_path, suffix, TEXTS), tokenizer)
    assert [sample.tokens_T.tolist() for sample in samples] == [tokenizer(text)["input_ids"] for text in TEXTS]


def test_text_files_are_documents_and_globs_take_them_in_order(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for name, text in zip("abc", TEXTS, strict=True):
        (tmp_path / f"{name}.txt").write_text(text + "\n\nsecond paragraph", encoding="utf-8")
    samples = open_file(tmp_path / "*.txt", tokenizer)
    expected = [tokenizer(text + "\n\nsecond paragraph")["input_ids"] for text in TEXTS]
    assert [sample.tokens_T.tolist() for sample in samples] == expected


def test_the_fingerprint_changes_with_the_tokens_and_with_the_masks(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    first = open_file(written(tmp_path, ".jsonl", TEXTS), tokenizer)
    again = open_file(written(tmp_path, ".parquet", TEXTS), tokenizer)
    assert first.fingerprint == again.fingerprint
    other = open_file(written(tmp_path, ".jsonl", [*TEXTS[:2], "a b c d e g"]), tokenizer)
    assert first.fingerprint != other.fingerprint
    spec = DataSpec(source=str(written(tmp_path, ".jsonl", ["x " * 200])))
    wide = open_samples(spec, Encoding(max_length=64, overlap=8), tokenizer, "t")
    narrow = open_samples(spec, Encoding(max_length=64, overlap=9), tokenizer, "t")
    assert wide.fingerprint != narrow.fingerprint


def test_limit_and_domain_are_kept(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"body": text, "from": origin} for text, origin in zip(TEXTS, ["web", None, "book"], strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    samples = open_file(path, tokenizer, column="body", domain_column="from", limit=2)
    assert [sample.domain for sample in samples] == ["web", None]


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
