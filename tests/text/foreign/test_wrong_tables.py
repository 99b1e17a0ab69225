"""Tables whose values would become other targets than their teacher's without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from logitstore.core.progress import Step
from logitstore.errors import BadInput
from logitstore.settings.foreign.convert import ConvertSettings
from logitstore.text.foreign.convert import convert
from tests.parts.texts import VOCABULARY
from tests.text.foreign.conftest import Convert

Said = Callable[..., Any]
Row = dict[str, Any]
K, LENGTH = 6, 9


def records(said: Said, count: int = 3, length: int = LENGTH) -> list[Row]:
    made = []
    for seed in range(count):
        tokens, rows = said(length, K, seed)
        made.append({"tokens": tokens, "ids": [ids for ids, _ in rows], "logprobs": [each for _, each in rows]})
    return made


def write(path: Path, rows: list[Row]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (lambda row: {"entropy": [9.0] * LENGTH}, "its entropy is 9, and must be from 0 to 5.768 nats"),
        (lambda row: {"entropy": [-1.0] * LENGTH}, "its entropy is -1"),
        (lambda row: {"entropy": [float("nan")] * LENGTH}, "its entropy is nan"),
        (lambda row: {"mask": [-100] * 4 + row["tokens"][4:]}, "numbers other than 0 and 1"),
        (lambda row: {"samples": [1] * 6 + [-1] * 3}, "holds a negative number"),
        (lambda row: {"gold": [-0.1] * LENGTH}, "more than the list leaves"),
        (lambda row: {name: [[each] for each in row[name]] for name in ("ids", "logprobs")}, "a list of lists"),
        (lambda row: {"tokens": [row["tokens"]]}, "a list of numbers"),
    ],
)
def test_columns_that_say_something_else_are_refused(
    changed: Callable[[Row], Row], words: str, ending: str, said: Said, converted: Convert, tmp_path: Path
) -> None:
    rows = [row | changed(row) for row in records(said)]
    with pytest.raises(BadInput, match=words):
        converted(write(tmp_path / f"x{ending}", rows), format="generic")


def test_a_column_that_only_later_records_have_is_not_passed_over(
    said: Said, converted: Convert, tmp_path: Path
) -> None:
    *first, last = records(said)
    masked = last | {"mask": [0] * 6 + [1] * 3}
    with pytest.raises(BadInput, match="a record has 'mask', which the first one lacks"):
        converted(write(tmp_path / "x.jsonl", [*first, masked]), format="generic")
    folder = tmp_path / "several"
    folder.mkdir()
    write(folder / "x1.parquet", first)
    write(folder / "x2.parquet", [masked])
    with pytest.raises(BadInput, match="it has the column 'mask'"):
        converted(folder, format="generic")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("logprobs", lambda logprobs: logprobs / np.log(2)),
        ("logprobs", lambda logprobs: logprobs - 5),
        ("logprobs", lambda logprobs: np.where(logprobs == logprobs.max(1, keepdims=True), 5, logprobs - 30)),
        ("probabilities", lambda logprobs: np.exp(logprobs) / 2),
    ],
)
def test_whole_distributions_that_do_not_sum_to_1_are_refused(
    kind: str, values: Callable[[Any], Any], converted: Convert, tmp_path: Path
) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (6, VOCABULARY))
    logprobs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    source = write(tmp_path / "x.parquet", [{"tokens": [1, 2, 3, 4, 5, 6], kind: values(logprobs).tolist()}])
    with pytest.raises(BadInput, match=r"not 1\. Are they logits"):
        converted(source, format="generic")


def test_infinite_logits_are_refused_by_their_row(converted: Convert, tmp_path: Path) -> None:
    logits = np.random.default_rng(0).normal(0, 3, (3, VOCABULARY))
    logits[1, 3] = np.inf
    source = write(tmp_path / "x.parquet", [{"tokens": [1, 2, 3], "logits": logits.tolist()}])
    with pytest.raises(BadInput, match=r"row 1 of sample 0.*NaN or infinite"):
        converted(source, format="generic")


def test_the_record_whose_lists_do_not_match_is_named(said: Said, converted: Convert, tmp_path: Path) -> None:
    rows = records(said)
    del rows[1]["ids"][-1]
    with pytest.raises(BadInput, match="record 1: ids and values have different counts of rows"):
        converted(write(tmp_path / "rows.jsonl", rows), format="generic", out=tmp_path / "rows")
    rows = records(said)
    del rows[2]["ids"][3][-1]
    with pytest.raises(BadInput, match="record 2: a row has other counts of ids and of values"):
        converted(write(tmp_path / "entries.jsonl", rows), format="generic", out=tmp_path / "entries")
    rows = records(said)
    for number, row in enumerate(rows):
        row["mask"] = [1] * (LENGTH - (number == 1))
    with pytest.raises(BadInput, match="record 1: 'mask' has another length than the tokens"):
        converted(write(tmp_path / "mask.jsonl", rows), format="generic", out=tmp_path / "mask")


def test_arrays_of_different_counts_of_records_are_refused(converted: Convert, tmp_path: Path) -> None:
    ids = np.tile(np.arange(K), (4, LENGTH, 1))
    np.savez(tmp_path / "x.npz", tokens=np.ones((5, LENGTH), int), ids=ids, logprobs=np.full(ids.shape, -3.0))
    with pytest.raises(BadInput, match="different counts of records"):
        converted(tmp_path / "x.npz", format="generic")


def notes(source: Path, teacher: Path, out: Path, **options: Any) -> str:
    found: list[str] = []

    def keep(step: Step) -> None:
        if step.note:
            found.append(step.note)

    convert(ConvertSettings(source=source, out=out, tokenizer=str(teacher), format="generic", **options), keep)
    return "\n".join(found)


def test_rows_about_another_token_are_told(said: Said, teacher: Path, tmp_path: Path) -> None:
    rows = records(said, 30)
    for row in rows:
        for place, (ids, token) in enumerate(zip(row["ids"], row["tokens"][1:], strict=False)):
            row["ids"][place] = [token, *[each for each in ids if each != token][: K - 1]]
    source = write(tmp_path / "x.jsonl", rows)
    assert "--rows-about" not in notes(source, teacher, tmp_path / "right")
    assert "are the rows about another token (--rows-about)" in notes(
        source, teacher, tmp_path / "shifted", rows_about="same"
    )


def test_lists_that_leave_out_too_much_are_told(said: Said, teacher: Path, tmp_path: Path) -> None:
    rows = records(said)
    source = write(tmp_path / "x.jsonl", rows)
    assert "unlisted tokens can have" not in notes(source, teacher, tmp_path / "right")
    for row in rows:
        row["logprobs"] = [[value - 20 for value in values] for values in row["logprobs"]]
    write(source, rows)
    assert "24 of 24 rows leave out more probability" in notes(source, teacher, tmp_path / "wrong")
