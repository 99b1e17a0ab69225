"""CSV files by RFC 4180, against the writer of the standard library."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from logitstore.dump.files.csv_rows import names, pieces
from logitstore.dump.files.spelling import as_text
from logitstore.errors import BadInput

CELLS = [
    "plain",
    'say "hi"',
    "a, b",
    "one\ntwo",
    "one\r\ntwo",
    " spaces ",
    "\ufeffmark",
    "",
    "NA",
    "x" * 200_000,
    "zero\0",
]


def read(path: Path, column: str = "text") -> list[str | None]:
    return [text for piece in pieces(path, {column: as_text}) for text in piece.columns[column].to_pylist()]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_what_was_written_is_read(tmp_path: Path, ending: str, line_end: str) -> None:
    path = tmp_path / f"data{ending}"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t" if ending == ".tsv" else ",", lineterminator=line_end)
        writer.writerows([["id", "text"], *([number, cell] for number, cell in enumerate(CELLS))])
    assert names(path) == ["id", "text"]
    assert read(path) == [cell or None for cell in CELLS]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ('"say \\"hi\\" now"', "line 3: .* its own are doubled"),
        ('"say "hi" now"', "line 3: .* its own are doubled"),
        ('"never closed', "line 3: unexpected end of data"),
        ("one, two", "line 3: a row has more cells"),
    ],
)
def test_a_cell_that_would_be_read_otherwise_is_refused(tmp_path: Path, rows: str, reason: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(f"text\nplain\n{rows}\n")
    with pytest.raises(BadInput, match=rf"^--data {path}: cannot be read as \.csv: {reason}"):
        read(path)


def test_a_text_with_a_line_break_and_without_quotes_is_no_two_rows(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,source\none,a\nits first line\nits second line,a\n")
    with pytest.raises(BadInput, match="line 3: a row has fewer cells than the header"):
        read(path)


def test_only_a_column_that_is_read_may_not_be_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("text,note,note\na,b,c\n")
    assert read(path) == ["a"]
    with pytest.raises(BadInput, match="more than one column named 'note'"):
        read(path, "note")
