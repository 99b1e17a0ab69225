"""Columns that nobody reads do not matter; a column that is read and cannot be is named with its file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from logitstore.errors import BadInput
from logitstore.text.documents import DataSpec
from logitstore.text.samples import Encoding, Samples, open_samples
from tests.parts.documents import open_file, values_of
from tests.parts.texts import train_tokenizer

Row = dict[str, Any]


def write_lines(path: Path, rows: list[Row]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_list(path: Path, rows: list[Row]) -> None:
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def write_csv(path: Path, rows: list[Row]) -> None:
    pandas.DataFrame(rows).to_csv(path, index=False)


def write_parquet(path: Path, rows: list[Row]) -> None:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def write_arrow(path: Path, rows: list[Row]) -> None:
    table = pyarrow.Table.from_pylist(rows)
    with pyarrow.ipc.new_file(path, table.schema) as file:
        file.write_table(table)


WRITERS: dict[str, Callable[[Path, list[Row]], None]] = {
    ".jsonl": write_lines,
    ".json": write_list,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".arrow": write_arrow,
}
NESTED = {".jsonl", ".json", ".parquet", ".arrow"}


def texts(samples: Samples, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [tokenizer.decode(sample.tokens_T.tolist()) for sample in samples]


def open_whole(path: Path, tokenizer: PreTrainedTokenizerFast) -> Samples:
    return open_samples(DataSpec(source=str(path)), Encoding(max_length=400), tokenizer, "the teacher")


OTHERS: list[tuple[str, list[Row]]] = [
    ("absent", [{}, {"id": "a"}, {}]),
    ("another type", [{"id": 1}, {"id": "one"}, {"id": 2.5}]),
    ("another name", [{"a": 1}, {"b": 1}, {"c": 1}]),
    ("null, then a text", [{"id": None}, {"id": "late"}, {"id": None}]),
    ("nested", [{"id": {"a": 1}}, {"id": {"b": [1]}}, {"id": [1, 2]}]),
    ("like an optional column", [{"tools": 1}, {"tools": "x"}, {"documents": {"a": 1}}]),
]


@pytest.mark.parametrize(
    ("suffix", "as_folder"), [*((suffix, False) for suffix in WRITERS), (".jsonl", True), (".parquet", True)]
)
@pytest.mark.parametrize("others", [others for _, others in OTHERS], ids=[kind for kind, _ in OTHERS])
def test_columns_that_nobody_reads_may_differ_between_files(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, suffix: str, others: list[Row], as_folder: bool
) -> None:
    for number, other in enumerate(others):
        WRITERS[suffix](tmp_path / f"part-{number}{suffix}", [{"text": f"text {number}", **other}] * 2)
    samples = open_file(tmp_path if as_folder else tmp_path / f"*{suffix}", tokenizer)
    assert texts(samples, tokenizer) == [f"text {number}" for number in range(3) for _ in range(2)]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_column_that_nobody_reads_may_be_null_for_megabytes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, suffix: str
) -> None:
    rows: list[Row] = [{"text": "a b", "id": None, "filler": "x" * 100_000}] * 110 + [{"text": "c d", "id": "late"}]
    WRITERS[suffix](tmp_path / f"data{suffix}", rows)
    assert texts(open_file(tmp_path / f"data{suffix}", tokenizer), tokenizer) == ["a b"] * 110 + ["c d"]


def asking(*, city: str | None = None, **arguments: Any) -> list[Row]:
    given = arguments | ({} if city is None else {"city": city})
    call = {"type": "function", "function": {"name": "f", "arguments": given}}
    return [{"role": "user", "content": "Go"}, {"role": "assistant", "content": None, "tool_calls": [call]}]


SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
CALLS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content or '' }}"
    "{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def calling() -> PreTrainedTokenizerFast:
    made = train_tokenizer()
    made.chat_template = CALLS
    return made


@pytest.mark.parametrize("suffix", sorted(NESTED))
@pytest.mark.parametrize("apart", [False, True], ids=["one file", "files"])
def test_chats_of_any_form_are_rendered_as_their_rows_say(
    tmp_path: Path, calling: PreTrainedTokenizerFast, suffix: str, apart: bool
) -> None:
    chats = [SAID, asking(x=1, y=2), asking(city="Ulm"), asking(x=3)]
    files = [[chat] for chat in chats] if apart else [chats]
    for number, some in enumerate(files):
        WRITERS[suffix](tmp_path / f"{number}{suffix}", [{"messages": chat} for chat in some])
    expected = [calling.apply_chat_template(chat, tokenize=False) for chat in chats]
    assert texts(open_whole(tmp_path / f"*{suffix}", calling), calling) == expected


@pytest.mark.parametrize("arguments", [{"x": 0.1234567890123456}, {"day": "2024-05-01"}, {"x": 2**60}, {"x": "1"}])
def test_a_value_is_not_changed_to_fit_the_values_of_other_rows(
    tmp_path: Path, calling: PreTrainedTokenizerFast, arguments: Row
) -> None:
    chats = [asking(**arguments), asking(x=1.5), asking(x=1)]
    write_lines(tmp_path / "chats.jsonl", [{"messages": chat} for chat in chats])
    expected = [calling.apply_chat_template(chat, tokenize=False) for chat in chats]
    assert texts(open_whole(tmp_path / "chats.jsonl", calling), calling) == expected


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_file_without_the_column_that_is_read_is_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, suffix: str
) -> None:
    WRITERS[suffix](tmp_path / f"a{suffix}", [{"text": "a b"}])
    WRITERS[suffix](tmp_path / f"b{suffix}", [{"body": "c d"}])
    with pytest.raises(BadInput, match=rf"b\{suffix}: no column named 'text'"):
        open_file(tmp_path / f"*{suffix}", tokenizer)


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_column_of_another_type_is_named_with_its_file(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, suffix: str
) -> None:
    WRITERS[suffix](tmp_path / f"a{suffix}", [{"text": "a b"}])
    WRITERS[suffix](tmp_path / f"b{suffix}", [{"text": {"body": "c d"}}])
    with pytest.raises(BadInput, match=rf"b\{suffix}: column 'text' holds struct.* but string"):
        open_file(tmp_path / f"*{suffix}", tokenizer)


@pytest.mark.parametrize("value", [3, 2.5, True, {"a": 1}, ["a"], SAID])
def test_a_value_that_is_no_text_is_named_with_its_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, value: object
) -> None:
    write_lines(tmp_path / "a.jsonl", [{"text": "a b"}] * 3)
    write_lines(tmp_path / "b.jsonl", [{"text": "a b"}, {"text": value}])
    with pytest.raises(BadInput, match=r"b\.jsonl, line 2: column 'text' holds .* where a string is expected"):
        open_file(tmp_path / "*.jsonl", tokenizer)


def test_cells_of_a_csv_file_are_texts_as_they_stand_there(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text\n007\n1.50\ntrue\n" + "words\n" * 1000 + "010\n")
    found = texts(open_file(path, tokenizer), tokenizer)
    assert [*found[:3], found[-1]] == ["007", "1.50", "true", "010"]


def zstandard(content: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKED = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}
CONTENTS = {
    ".jsonl": b'{"text": "a b"}\n',
    ".csv": b"text,more\na b,1\n",
    ".tsv": b"text\tmore\na b\t1\n",
    ".txt": b"a b",
}


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("kind", CONTENTS)
def test_compressed_files_are_read(tmp_path: Path, packing: str, kind: str) -> None:
    content = CONTENTS[kind]
    (tmp_path / f"data{kind}{packing}").write_bytes(PACKED[packing](content))
    (tmp_path / f"LARGE{kind}{packing}".upper()).write_bytes(PACKED[packing](content))
    if kind == ".jsonl":
        # a packed file may have several parts, one after the other
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / f"data{kind}{packing}").write_bytes(PACKED[packing](content) * 2)
        assert lines(tmp_path / "parts") == ["a b", "a b"]
    assert lines(tmp_path / "*.*") == ["a b", "a b"]


def lines(source: Path) -> list[str]:
    return values_of(source)


def test_rows_are_read_once_and_again_after_a_change(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "data.jsonl"
    for text in ("first", "second one"):
        write_lines(path, [{"text": text}])
        assert texts(open_file(path, tokenizer), tokenizer) == [text]
        assert texts(open_file(path, tokenizer), tokenizer) == [text]


SOUND = '{"text": "a b"}\n'
BROKEN = {
    "cut.jsonl": (SOUND * 2 + '{"text": \n' + SOUND, r"line 3: not JSON: .*"),
    "cut-at-the-end.jsonl": (SOUND * 2 + '{"text": "a', r"line 3: not JSON: Unterminated string.*column 10"),
    "words.jsonl": (SOUND + "no JSON\n" + SOUND, r"line 2: not JSON: Expecting value \(column 1\)"),
    "late.jsonl": (SOUND * 30_000 + "{}x\n", r"line 30001: holds|line 30001: not JSON"),
    "number.jsonl": (SOUND + "\n5\n", r"line 3: holds 5 where an object is expected"),
    "several-lines.json": (
        '{\n "text": "a b"\n}\n{\n "text": nothing\n}\n',
        r"line 4: not JSON: .*\(line 5, column 10\)",
    ),
    "list.json": ('[{"text": "a b"},\n{"text": "a b"}\n', r"line 3: not JSON: the list of rows"),
    "latin.jsonl": ((SOUND * 2).encode() + b'{"text": "caf\xe9"}\n', r"line 3: not UTF-8"),
    "half.jsonl": (SOUND + '{"text": "\\ud800"}\n', r"line 2: column 'text' holds half of a surrogate pair"),
    "deep.jsonl": (SOUND + '{"text": ' + "[" * 200_000 + "\n", r"line 2: it is nested too deep"),
    "cells.csv": ("text,id\na,1\nb,2,3\n", r"cannot be read as \.csv: .*line 3"),
    "binary.parquet": ("no Parquet", r"cannot be read as \.parquet"),
    "binary.arrow": ("no Arrow", r"cannot be read as \.arrow"),
    "cut.jsonl.gz": (gzip.compress(SOUND.encode() * 9)[:-12], r"cannot be read as \.jsonl: .*end-of-stream"),
    "plain.jsonl.gz": (SOUND, r"cannot be read as \.jsonl: Not a gzipped file"),
    "cut.jsonl.zst": (zstandard(SOUND.encode() * 9)[:-5], r"cannot be read as \.jsonl: Truncated compressed stream"),
    "plain.jsonl.zst": (SOUND, r"cannot be read as \.jsonl: ZSTD decompress failed: Unknown frame"),
    "broken.jsonl.zst": (zstandard(SOUND.encode() * 2 + b"no JSON\n"), r"line 3: not JSON: Expecting value"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("others", [False, True], ids=["alone", "among others"])
def test_a_broken_file_is_named_with_its_line(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, name: str, others: bool
) -> None:
    content, message = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    kind = ".jsonl" if path.suffix in PACKED else path.suffix
    if others:
        WRITERS[kind](tmp_path / f"a{kind}", [{"text": "a b"}])
    with pytest.raises(BadInput, match=rf"^--data {path}[,:] {message}") as caught:
        open_file(tmp_path / "*" if others else path, tokenizer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [4, 200, 600])
def test_a_parquet_file_that_is_cut_short_is_named(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, cut: int
) -> None:
    path = tmp_path / "data.parquet"
    write_parquet(path, [{"text": f"a b {number}"} for number in range(500)])
    whole = path.read_bytes()
    path.write_bytes(whole[: cut - 4] + whole[cut:])
    with pytest.raises(BadInput, match=rf"^--data {path}: cannot be read as \.parquet"):
        open_file(path, tokenizer)
