"""Data that cannot be read as texts are named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parts.commands import Refused
from tests.parts.texts import TEXTS, VOCABULARY, save_model, train_tokenizer


@pytest.mark.parametrize("name", ["absent.jsonl", "absent/*.jsonl", "./absent"])
def test_data_that_are_not_there_are_named(refused_dump: Refused, tmp_path: Path, name: str) -> None:
    data = name if name.startswith(".") else tmp_path / name
    assert f"--data {data}: no such file" in refused_dump(data=data)


def test_a_file_of_unknown_type_is_named_with_the_types_that_are_known(refused_dump: Refused, tmp_path: Path) -> None:
    data = tmp_path / "texts.docx"
    data.write_text("text")
    line = refused_dump(data=data)
    assert str(data) in line
    assert ".docx" in line
    assert ".jsonl" in line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.jsonl", ""),
        ("empty.json", "[]"),
        ("empty.txt", ""),
        ("empty.csv", ""),
        ("head.csv", "text\n"),
        ("blank.jsonl", "\n\n"),
        ("broken.jsonl", '{"text": "a b c"}\n{"text": \n'),
        ("binary.parquet", "no parquet at all"),
    ],
)
def test_data_without_a_document_are_named(refused_dump: Refused, tmp_path: Path, name: str, content: str) -> None:
    data = tmp_path / name
    data.write_text(content)
    assert str(data) in refused_dump(data=data)


@pytest.mark.parametrize("content", ["", "[]"])
def test_an_empty_file_is_called_empty(refused_dump: Refused, tmp_path: Path, content: str) -> None:
    data = tmp_path / "empty.json"
    data.write_text(content)
    assert "empty" in refused_dump(data=data).replace("empty.json", "")


def test_an_empty_folder_of_data_is_named(refused_dump: Refused, tmp_path: Path) -> None:
    folder = tmp_path / "no-data"
    folder.mkdir()
    assert str(folder) in refused_dump(data=folder)


def test_data_in_which_no_document_has_two_tokens_leave_nothing_to_predict(
    refused_dump: Refused, tmp_path: Path
) -> None:
    data = tmp_path / "letters.jsonl"
    data.write_text("".join(json.dumps({"text": letter}) + "\n" for letter in ["", "a", "b"]))
    line = refused_dump(data=data)
    assert str(data) in line
    assert "none of its 3 documents has a token to predict" in line


def test_an_unknown_column_is_named_with_the_nearest_known_one(refused_dump: Refused) -> None:
    line = refused_dump(column="txet")
    assert "no column named 'txet'" in line
    assert "Did you mean 'text'?" in line


def test_an_unknown_domain_column_is_named_with_the_nearest_known_one(refused_dump: Refused) -> None:
    line = refused_dump(domain_column="topics")
    assert "no column named 'topics'" in line
    assert "Did you mean 'topic'?" in line


def test_data_without_a_usual_column_ask_for_one(refused_dump: Refused, tmp_path: Path) -> None:
    data = tmp_path / "body.jsonl"
    data.write_text(json.dumps({"body": TEXTS[0]}) + "\n")
    line = refused_dump(data=data)
    assert str(data) in line
    assert "--column" in line
    assert "body" in line


@pytest.mark.parametrize("value", [3, 2.5, True, {"a": 1}, ["a", "b"]])
def test_a_column_that_holds_neither_texts_nor_chats_is_named(
    refused_dump: Refused, tmp_path: Path, value: object
) -> None:
    data = tmp_path / "values.jsonl"
    data.write_text(json.dumps({"text": value}) + "\n" + json.dumps({"text": value}) + "\n")
    line = refused_dump(data=data)
    assert str(data) in line
    assert "column 'text'" in line


def test_a_split_that_is_not_there_is_named(refused_dump: Refused) -> None:
    assert "--split trian" in refused_dump(split="trian")


def test_chats_need_a_tokenizer_with_a_chat_template(refused_dump: Refused, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "plain", train_tokenizer(), VOCABULARY)
    data = tmp_path / "chats.jsonl"
    turns = [{"role": "user", "content": "What is a set?"}, {"role": "assistant", "content": "A collection."}]
    data.write_text(json.dumps({"messages": turns}) + "\n")
    line = refused_dump(teacher=folder, data=data)
    assert str(folder) in line
    assert "no chat template" in line


@pytest.mark.parametrize("name", ["nobody/such-data", "nobody/such-data:config"])
def test_data_on_a_hub_that_cannot_be_reached_are_named(refused_dump: Refused, name: str) -> None:
    line = refused_dump(data=name)
    assert f"--data {name}: cannot be read as a data set: Couldn't reach 'nobody/such-data' on the Hub" in line
    assert line.endswith(". No path here has this name: check it, or the network")


def test_a_configuration_that_a_data_set_lacks_is_named(
    refused_dump: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "data.jsonl").write_text('{"text": "a b"}\n')
    monkeypatch.chdir(tmp_path)
    assert "--data own:german, --split train: BuilderConfig 'german' not found." in refused_dump(data="own:german")
