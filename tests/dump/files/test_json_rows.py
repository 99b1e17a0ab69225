"""Rows of JSON files are those that were written, wherever the pieces end in which a file is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from logitstore.dump.files import json_rows
from logitstore.errors import BadInput

TEXTS = st.text(st.sampled_from('ab{}[]",:\\ \n\r\t\u2028\u2029\x85\ufeff\u00e9\U0001f642\x00'), max_size=12)
ROWS = st.dictionaries(
    st.sampled_from(["text", "id", "\u00fc"]),
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | st.lists(TEXTS, max_size=2),
    max_size=3,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows") / "data.json"


def read(path: Path, text: str, step: int) -> list[tuple[int, Any]]:
    path.write_bytes(text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_FIRST_STEP", step)
        patch.setattr(json_rows, "_STEP", step)
        return [(line, row) for line, row, _ in json_rows.rows(path)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), rows=st.lists(ROWS, max_size=6), step=st.integers(1, 40), is_list=st.booleans())
def test_rows_and_their_lines_are_those_that_were_written(
    path: Path, data: st.DataObject, rows: list[dict[str, Any]], step: int, is_list: bool
) -> None:
    """Line ends of all kinds, blank lines, rows over several lines or many on one, a mark of UTF-8, no end of line."""
    line_end = data.draw(st.sampled_from(["\n", "\r\n"]))
    gaps = st.sampled_from(["", " ", "\t", line_end, line_end * 2])
    text, expected = data.draw(st.sampled_from(["", "\ufeff"])) + data.draw(gaps) + "[" * is_list, []
    for number, row in enumerate(rows):
        text += ("," if is_list and number else "") + data.draw(gaps)
        expected.append((text.count("\n") + 1, row))
        indent, is_ascii = data.draw(st.sampled_from([None, 1])), data.draw(st.booleans())
        text += json.dumps(row, indent=indent, ensure_ascii=is_ascii).replace("\n", line_end) + data.draw(gaps)
    text += "]" * is_list + data.draw(gaps)
    assert read(path, text, step) == expected


@pytest.mark.parametrize("digits", [4300, 4301, 20_000])
@pytest.mark.parametrize("step", [7, 1 << 16])
def test_integers_of_any_length_may_stand_in_a_row(path: Path, digits: int, step: int) -> None:
    long = "7" * digits
    found = read(path, f'{{"text": "a"}}\n{{"text": "b", "id": {long}}}\n{{"text": "c", "id": 5}}\n', step)
    assert [(line, row["text"]) for line, row in found] == [(1, "a"), (2, "b"), (3, "c")]
    assert isinstance(found[2][1]["id"], int)
    if digits > 4300:
        assert str(found[1][1]["id"]) == long


@pytest.mark.parametrize("step", [1, 1 << 16])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1}]\n[{"a": 2}]', 2),
        ('[{"a": 1}] {"a": 2}', 1),
        ("[]\n\nwords", 3),
        ('[\n{"a": 1},\n]', 3),
        ('[\n{"a": 1}\n{"a": 2}]', 3),
        ('[{"a": 1},\n', 2),
        ('[{"a": 1}\n', 2),
        ('["a b"]\n["c d"]\n', 2),
        ('{"a": 1}\n[{"a": 2}]', 2),
        ('{"a": 1},\n{"a": 2}', 1),
    ],
)
def test_nothing_in_a_file_is_left_unread(path: Path, text: str, line: int, step: int) -> None:
    with pytest.raises(BadInput, match=rf"line {line}: (not JSON|holds)"):
        read(path, text, step)
