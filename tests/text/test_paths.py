"""The file that was named is the file that is read, whatever characters its path has."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.text.samples import Samples
from tests.parts.documents import open_file

NAMES = ["data [v1]", "data*", "d?ta", "x::y", "with spaces", "{a,b}", "file:/x", os.fsdecode(b"caf\xe9")]
DECOYS = ["data v", "data1", "data", "x", "a", "b"]


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "texts.jsonl"
    path.write_text(json.dumps({"text": text}) + "\n")
    return path


def texts(samples: Samples, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode(sample.tokens_T.tolist()) for sample in samples]


@pytest.mark.parametrize("name", NAMES)
def test_files_folders_and_globs_are_taken_literally(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    for decoy in DECOYS:
        write(tmp_path / decoy, f"wrong {decoy}")
    path = write(tmp_path / name, "the right one")
    for source in (path, path.parent, path.parent / "*.jsonl"):
        assert texts(open_file(source, tokenizer), tokenizer) == ["the right one"], source


def test_a_file_that_changes_is_read_again(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    for text in ("before it changed", "after it was changed"):
        path = write(tmp_path / "data [v1]", text)
        assert texts(open_file(path, tokenizer), tokenizer) == [text]


@pytest.mark.parametrize("word", ["NA", "null", "NaN", "None", "n/a"])
def test_words_for_nothing_in_a_csv_are_texts(tmp_path: Path, tokenizer: PreTrainedTokenizerFast, word: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"text\n{word}\nsome text\n")
    assert texts(open_file(path, tokenizer), tokenizer) == [word, "some text"]
