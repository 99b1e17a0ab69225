"""Invariants, broken one at a time in a cache whose checksums are right, are reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest

from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import seal, seal_of, unseal
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.text.sample import key_of
from tests.parts.tasks import Task, named

pytestmark = pytest.mark.attack


def reseal(cache: Path, part: int, **changes: Any) -> None:
    """Write the commit record of a part anew, about the files as they are now."""
    folder = layout.part_folder(cache, part)
    record = unseal(PartRecord, folder / RECORD_NAME)
    files = {name: seal_of(folder / name) for name in record.files}
    (folder / RECORD_NAME).write_bytes(seal(record.model_copy(update={"files": files} | changes)))


def change_samples(cache: Path, part: int, change: Callable[[dict[str, list[Any]]], object]) -> None:
    """Rewrite the columns of `samples.arrow`."""
    path = layout.part_folder(cache, part) / layout.SAMPLES_FILE
    with pa.OSFile(str(path)) as file:
        batch = pa.ipc.open_file(file).get_batch(0)
        columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
        schema = batch.schema
    change(columns)
    arrays = [pa.array(columns[field.name], field.type) for field in schema]
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))


def change_rows(cache: Path, part: int, field: str, change: Callable[[Any], object]) -> None:
    """Change stored values in place."""
    manifest = unseal(Manifest, cache / MANIFEST_NAME)
    info = manifest.fields[field]
    chunk = (
        layout.part_folder(cache, part) / layout.ROWS_FOLDER / field / "/".join(["c", "0", *("0" for _ in info.shape)])
    )
    values = np.fromfile(chunk, np.dtype(info.dtype).newbyteorder("<")).reshape(-1, *info.shape)
    change(values)
    values.tofile(chunk)


def one_more_row(columns: dict[str, list[Any]]) -> None:
    columns["row_count"][1] += 1


def shifted_spans(columns: dict[str, list[Any]]) -> None:
    columns["row_start"][1] -= 1


def row_at_the_last_position(columns: dict[str, list[Any]]) -> None:
    mask = columns["mask"][1]
    mask[mask.index(True)] = False
    mask[-1] = True


def unknown_token(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][3] = 320
    columns["key"][1] = key_of(np.array(columns["tokens"][1]))


def changed_token(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][3] += 1 if columns["tokens"][1][3] < 319 else -1


def another_image(columns: dict[str, list[Any]]) -> None:
    columns["image"][3] += 1


def another_view(columns: dict[str, list[Any]]) -> None:
    columns["view"][3] += 1


def negative_nll(columns: dict[str, list[Any]]) -> None:
    columns["nll"][3] = -1.0


def no_nll(columns: dict[str, list[Any]]) -> None:
    columns["nll"][3] = float("nan")


def shown_otherwise(columns: dict[str, list[Any]]) -> None:
    columns["shown"][1][0] = 5 if columns["shown"][1][0] == 4 else 4


def shown_unknown(columns: dict[str, list[Any]]) -> None:
    columns["shown"][1][0] = 400


def other_text(columns: dict[str, list[Any]]) -> None:
    columns["query" if "query" in columns else "text"][1] += "!"


def unknown_piece(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][0] = 400


def unknown_piece_of_a_pair(columns: dict[str, list[Any]]) -> None:
    columns["tokens"][1][0][0] = 400


def impossible_label(columns: dict[str, list[Any]]) -> None:
    columns["labels"][1][0] = -2


def lost_document(columns: dict[str, list[Any]]) -> None:
    for name in ("tokens", "types", "labels", "documents"):
        columns[name][1].pop()


def fewer_labels(columns: dict[str, list[Any]]) -> None:
    columns["labels"][1].pop()


def infinite_score(columns: dict[str, list[Any]]) -> None:
    columns["score"][1] = float("inf")


SAMPLE_BREAKS: list[tuple[str, str, Callable[[dict[str, list[Any]]], None]]] = [
    ("text", "row_count is not the count of the mask", one_more_row),
    ("text", "the row spans do not follow each other", shifted_spans),
    ("text", "a row stands at the last position", row_at_the_last_position),
    ("text", "a token id is not below the vocabulary", unknown_token),
    ("text", "a key is not the hash of its sample's tokens", changed_token),
    ("text", "an nll is negative", negative_nll),
    ("images", "it does not hold the views of this part", another_image),
    ("images", "it does not hold the views of this part", another_view),
    ("images", "an nll is negative", negative_nll),
    ("images", "NaN where there is a label", no_nll),
    ("masked", "a mask is not the one that the seed and the rule make", shown_otherwise),
    ("masked", "a key is not the hash of its tokens and its mask", shown_otherwise),
    ("masked", "a token id is not below the vocabulary", shown_unknown),
    ("masked", "an nll is negative", negative_nll),
    ("ranking", "a key is not the hash of its texts", other_text),
    ("ranking", "a token id is not below the 400 of the tokenizer", unknown_piece_of_a_pair),
    ("ranking", "a label is below -1", impossible_label),
    ("ranking", "the count of pairs is not the record's count of rows", lost_document),
    ("ranking", "lists that do not fit together", fewer_labels),
    ("ranking", "an nll is a number", negative_nll),
    ("vectors", "a key is not the hash of its text", other_text),
    ("vectors", "a token id is not below the 400", unknown_piece),
    ("vectors", "a score is infinite", infinite_score),
]


@pytest.mark.parametrize(("task", "what", "change"), SAMPLE_BREAKS, indirect=["task"])
def test_a_broken_invariant_of_the_samples_is_reported_although_the_checksums_are_right(
    small_copy: Path, what: str, change: Callable[[dict[str, list[Any]]], None]
) -> None:
    change_samples(small_copy, 1, change)
    reseal(small_copy, 1)
    problems = verify(small_copy)
    assert any(what in problem.what for problem in problems)
    assert any("parts/00001/samples.arrow" in str(problem) for problem in problems)
    assert {problem.part for problem in problems} == {1}


def test_samples_that_are_rewritten_unchanged_are_sound(small_copy: Path) -> None:
    """So it is the change, not the rewriting, that the test above reports."""
    change_samples(small_copy, 1, lambda columns: None)
    reseal(small_copy, 1)
    assert verify(small_copy) == []


@pytest.mark.parametrize("count", ["tokens", "rows"])
def test_a_record_that_counts_wrongly_is_reported(small_copy: Path, count: str) -> None:
    record = unseal(PartRecord, small_copy / "parts" / "00001" / RECORD_NAME)
    reseal(small_copy, 1, **{count: getattr(record, count) + 1})
    problems = verify(small_copy)
    assert problems
    assert {problem.part for problem in problems} == {1}


def put(index: Any, value: float) -> Callable[[Any], None]:
    def change(values: Any) -> None:
        values[index] = value

    return change


def swap_first_two(values: Any) -> None:
    row = int(np.flatnonzero(values[:, 0] != values[:, 1])[0])
    values[row, [0, 1]] = values[row, [1, 0]]


OF_LISTS = ("text", "images", "classes", "masked")
"""The tasks whose rows list some tokens or classes."""

ROW_BREAKS: list[tuple[str, str, Callable[[Any], None]]] = [
    ("ids", "not below the vocabulary", put((3, 7), 400)),
    ("ids", "lists an id twice", lambda ids: ids.__setitem__((3, 6), ids[3, 7])),
    ("logprobs", "positive or NaN", put((3, 0), 0.25)),
    ("logprobs", "positive or NaN", put((3, 7), np.nan)),
    ("logprobs", "not in falling order", swap_first_two),
    ("logprobs", "do not sum to 1", put((3, 0), -0.001)),
    ("tail_logmass", "above 1 or NaN", put(3, 0.5)),
    ("tail_logmass", "above 1 or NaN", put(3, np.nan)),
    ("entropy", "negative, NaN or above", put(3, -0.5)),
    ("entropy", "negative, NaN or above", put(3, np.nan)),
    ("entropy", "negative, NaN or above", put(3, 9.0)),
]


@pytest.mark.parametrize(
    ("task", "field", "what", "change"),
    [(task, *each) for task in OF_LISTS for each in ROW_BREAKS] + [("ranking", "score", "not finite", put(3, np.inf))],
    indirect=["task"],
)
def test_a_broken_invariant_of_the_rows_is_reported_although_the_checksums_are_right(
    small_copy: Path, field: str, what: str, change: Callable[[Any], None]
) -> None:
    change_rows(small_copy, 1, field, change)
    reseal(small_copy, 1)
    problems = verify(small_copy)
    assert (1, f"parts/00001/rows.zarr/{field}") in named(problems)
    assert any(problem.file.endswith(field) and what in problem.what for problem in problems)
    assert {problem.part for problem in problems} == {1}


@pytest.mark.parametrize("task", OF_LISTS, indirect=True)
def test_a_gold_logprob_of_an_unlisted_token_that_is_positive_or_nan_is_reported(small_copy: Path) -> None:
    part = Cache(small_copy).part(1)
    golds = np.concatenate([part[index].sample.gold_N for index in range(len(part.samples))])
    unlisted = int(np.flatnonzero(~(part.fields["ids"] == golds[:, None]).any(1) & (golds >= 0))[0])
    for value in (0.5, np.nan):
        change_rows(small_copy, 1, "gold_logprob", put(unlisted, value))
        reseal(small_copy, 1)
        assert named(verify(small_copy)) == {(1, "parts/00001/rows.zarr/gold_logprob")}


@pytest.mark.parametrize("task", ["images"], indirect=True)
def test_a_gold_logprob_where_there_is_no_label_is_reported(small_copy: Path) -> None:
    change_rows(small_copy, 1, "gold_logprob", put(0, -0.5))
    reseal(small_copy, 1)
    assert named(verify(small_copy)) == {(1, "parts/00001/rows.zarr/gold_logprob")}


@pytest.mark.parametrize("task", OF_LISTS, indirect=True)
def test_an_invariant_broken_in_a_late_row_is_reported(small_copy: Path) -> None:
    change_rows(small_copy, 1, "entropy", put(-1, -0.5))
    reseal(small_copy, 1)
    assert named(verify(small_copy)) == {(1, "parts/00001/rows.zarr/entropy")}


def test_zarr_metadata_that_the_manifest_does_not_ask_for_is_reported_although_the_checksums_are_right(
    small_copy: Path, task: Task
) -> None:
    path = small_copy / task.array / "zarr.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"data_type": "int32"}))
    reseal(small_copy / task.array.partition("parts/")[0], 1)
    problems = verify(small_copy)
    assert {problem.part for problem in problems} == {1}
    assert f"{task.array}/zarr.json" in str(problems[0])
