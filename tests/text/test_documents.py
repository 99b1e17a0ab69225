"""Files of every kind give the same samples."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pyarrow
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, open_samples
from tests.parts.documents import open_file


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
