"""The first value that is not empty tells texts from chats; what has another form is refused, never taken as prose."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.dump.data import is_saved
from logitstore.errors import BadInput
from logitstore.text.documents import DataSpec, open_documents
from tests.parts.documents import open_file, values_of
from tests.text.test_columns import WRITERS, Row, write_arrow, write_lines, write_parquet

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SPELLED = json.dumps(CHAT)


def form_of(path: Path, **options: Any) -> bool:
    """Return True if a file is read as chats."""
    return open_documents(DataSpec(source=str(path), **options)).form.is_chat


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".arrow"])
@pytest.mark.parametrize(
    ("empty", "chat"),
    [(None, CHAT), ([], CHAT), (None, SPELLED), ("", SPELLED), ("[]", SPELLED)],
    ids=["null", "list", "null, then text", "no text", "text of a list"],
)
@pytest.mark.parametrize("count", [1, 1200])
def test_chats_are_chats_however_many_empty_rows_stand_before_them(
    tmp_path: Path, suffix: str, empty: object, chat: object, count: int
) -> None:
    WRITERS[suffix](tmp_path / f"data{suffix}", [{"messages": empty}] * count + [{"messages": chat}] * 2)
    assert form_of(tmp_path / f"data{suffix}")


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("first", [None, "", "[1, 2]", "[ ] is a list", '[{"role": 1}]', "words"])
def test_texts_are_texts_whatever_stands_in_them(tmp_path: Path, suffix: str, first: str | None) -> None:
    WRITERS[suffix](tmp_path / f"data{suffix}", [{"text": first}, {"text": "a b"}, {"text": SPELLED}])
    assert not form_of(tmp_path / f"data{suffix}")


PAIRS: list[tuple[list[Row], str]] = [
    ([{"prompt": CHAT[:1], "completion": "Hello."}], r"line 1: column 'prompt' holds .* a string is expected"),
    (
        [{"prompt": "Hi", "completion": "Yes."}, {"prompt": CHAT[:1], "completion": "Hello."}],
        r"line 2: column 'prompt'",
    ),
    (
        [{"prompt": "Hi", "completion": "Yes."}, {"prompt": "Hi", "completion": CHAT[1:]}],
        r"line 2: column 'completion'",
    ),
    ([{"prompt": 5, "completion": CHAT[1:]}], r"line 1: column 'prompt' holds 5 where a chat is expected"),
    ([{"prompt": "Hi", "completion": CHAT[1:]}], r"row 1: 'Hi' is not JSON"),
]


@pytest.mark.parametrize(("rows", "message"), PAIRS)
def test_prompts_and_completions_have_one_form(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, rows: list[Row], message: str
) -> None:
    write_lines(tmp_path / "data.jsonl", rows)
    with pytest.raises(BadInput, match=message):
        open_file(tmp_path / "data.jsonl", tokenizer)


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [600, 940])
@pytest.mark.parametrize("where", ["content", "x"])
def test_a_chat_that_is_nested_too_deep_is_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, depth: int, where: str
) -> None:
    turns = [CHAT[0], {"role": "assistant", "content": "yes", where: nested(depth)}]
    write_lines(tmp_path / "data.jsonl", [{"messages": turns}])
    with pytest.raises(BadInput, match=r"(row|line) 1: .*nested too deep"):
        open_file(tmp_path / "data.jsonl", tokenizer)


def test_a_text_column_with_a_deep_or_long_value_is_named_in_a_short_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    for value in ("[" * 940 + "]" * 940, "7" * 9000, '["' + "a" * 100_000 + '"]'):
        (tmp_path / "data.jsonl").write_text(f'{{"text": {value}}}\n')
        with pytest.raises(BadInput, match=r"line 1: column 'text' holds") as caught:
            open_file(tmp_path / "data.jsonl", tokenizer)
        assert len(str(caught.value)) < 400 + len(str(tmp_path))


def texts_in(path: Path, **options: Any) -> list[str | None]:
    return values_of(path, **options)


@pytest.mark.parametrize("name", ["data", "data [v1]"])
def test_compressed_files_of_a_folder_are_read_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "inner").mkdir(parents=True)
    (tmp_path / name / "inner" / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "c d"}\n'))
    (tmp_path / name / "a.jsonl").write_text('{"text": "a b"}\n')
    assert sorted(map(str, texts_in(tmp_path / name))) == ["a b", "c d"]


@pytest.mark.parametrize("names", [["a.tsv"], ["a.csv"], ["a.csv", "b.tsv"], ["a.tsv", "b.tsv", "c.csv"]])
def test_words_for_nothing_in_a_folder_are_texts(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("text,id\nNA,1\nnull,2\n".replace(",", "\t" if name.endswith("tsv") else ","))
    assert texts_in(tmp_path) == ["NA", "null"] * len(names)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["text", "a, b", "c, d"], None),
        (["text,id", "a, b,1", "c,2"], None),
        (["text,id", "c,2", "a, b,1"], None),
        (["text,id", *["a,1,"] * 1500, "b,1,x"], None),
        (["text,id", "a,1,", "c,2"], ["a", "c"]),
        (["text", '"a, b"', '"c, d"'], ["a, b", "c, d"]),
        (["id,text", "1", "2,a b"], None),
        (["id,text", "1,", "2,a b"], [None, "a b"]),
    ],
)
def test_a_csv_row_with_other_cells_than_the_header_is_refused(
    tmp_path: Path, line_end: str, rows: list[str], expected: list[str | None] | None
) -> None:
    path = tmp_path / "data.csv"
    path.write_text("\ufeff" + line_end.join(rows), newline="", encoding="utf-8")
    if expected is None:
        with pytest.raises(
            BadInput, match=rf"^--data {path}: cannot be read as \.csv: .*(more cells|fewer cells|saw 3)"
        ):
            texts_in(path)
    else:
        assert texts_in(path) == expected


@pytest.mark.parametrize("has_splits", [False, True])
def test_a_saved_data_set_is_read_without_what_was_made_of_it(tmp_path: Path, has_splits: bool) -> None:
    made: Any = datasets.Dataset.from_dict({"text": ["a b", "c d"], "id": [1, 2]})
    (datasets.DatasetDict(train=made, test=made.select([1])) if has_splits else made).save_to_disk(tmp_path / "saved")
    assert is_saved(tmp_path / "saved")
    opened: Any = datasets.load_from_disk(tmp_path / "saved")
    (opened["train"] if has_splits else opened).map(lambda row: {"text": row["text"] * 2})
    assert texts_in(tmp_path / "saved") == ["a b", "c d"]
    with pytest.raises(BadInput, match="no split named 'dev'"):
        texts_in(tmp_path / "saved", split="dev")


@pytest.mark.parametrize("writer", [write_parquet, write_arrow])
def test_a_path_that_is_not_utf8_is_opened(tmp_path: Path, writer: Any) -> None:
    writer(tmp_path / "data", [{"text": "a b"}])
    path = tmp_path / os.fsdecode(b"caf\xe9" + (b".parquet" if writer is write_parquet else b".arrow"))
    (tmp_path / "data").rename(path)
    assert texts_in(path) == ["a b"]


def test_a_column_whose_type_cannot_be_read_is_named(tmp_path: Path) -> None:
    union = pyarrow.UnionArray.from_sparse(pyarrow.array([0], pyarrow.int8()), [pyarrow.array(["a b"])])
    table = pyarrow.table({"text": ["a b"], "other": union})
    with pyarrow.ipc.new_file(tmp_path / "data.arrow", table.schema) as file:
        file.write_table(table)
    assert texts_in(tmp_path / "data.arrow") == ["a b"]
    with pytest.raises(BadInput, match=r"data\.arrow: column 'other' holds sparse_union"):
        texts_in(tmp_path / "data.arrow", column="other")


def test_what_is_prepared_may_be_read_by_whom_the_umask_lets(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    write_lines(tmp_path / "data.jsonl", [{"text": "kept for others"}])
    before = os.umask(0o022)
    try:
        folder = open_file(tmp_path / "data.jsonl", tokenizer).folder
    finally:
        os.umask(before)
    kept = [folder.shard(0), *folder.windows.iterdir()]
    assert [file.stat().st_mode & 0o777 for file in kept] == [0o644] * 3
    assert sorted(file.name for file in folder.path.iterdir() if file.is_file()) == [
        "lock",
        "tokens-00000.arrow",
        "tokens.json",
    ]
