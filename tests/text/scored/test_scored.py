"""Scores and groups go from the data into every kind of cache, and are read again as they were."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.convert import RecodeSettings
from logitstore.settings.foreign.convert import ExportSettings
from logitstore.store.checks.verify import verify
from logitstore.store.index.scored import column_scores, group_codes, score_names
from logitstore.text.foreign.export import export
from logitstore.text.scored.said import Said
from logitstore.text.scored.values import group_of, score_of
from tests.parts.merge import plan as merge_plan
from tests.parts.scored import ANSWERS, PROMPTS, scored_cache, scored_plan, scored_rows


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> logitstore.Cache:
    return scored_cache(teacher, tmp_path_factory.mktemp("scored"))


def assert_told(cache: logitstore.Cache) -> None:
    """The scores and groups of a cache are those of the data."""
    rows = scored_rows()
    rewards = [math.nan if row["reward"] is None else row["reward"] for row in rows]
    np.testing.assert_array_equal(column_scores(cache, "reward", "test"), rewards)
    np.testing.assert_array_equal(column_scores(cache, "correct", "test"), [float(row["correct"]) for row in rows])
    np.testing.assert_array_equal(group_codes(cache), np.repeat(np.arange(PROMPTS), ANSWERS))
    for place in (0, 6, 17, 59):
        sample, row = cache[place].sample, rows[place]
        expected = {name: float(row[name]) for name in ("reward", "correct") if row[name] is not None}
        assert (sample.scores, sample.group) == (expected, str(row["asked"]))


def test_a_dump_keeps_scores_and_groups(scored: logitstore.Cache) -> None:
    assert_told(scored)
    assert not verify(scored.path)


def test_recode_merge_and_export_keep_them(scored: logitstore.Cache, teacher: Path, tmp_path: Path) -> None:
    recode(RecodeSettings(cache=scored.path, preset="topk", k=4, out=tmp_path / "recoded"))
    assert_told(logitstore.open(tmp_path / "recoded"))
    other = scored_cache(teacher, tmp_path, "other", score_columns=None, group_column=None)
    assert other.manifest.data.fingerprint == scored.manifest.data.fingerprint
    merge(merge_plan([scored, other], tmp_path / "mean"))
    assert_told(logitstore.open(tmp_path / "mean"))
    export(ExportSettings(cache=scored.path, out=tmp_path / "exported"))
    table = pq.read_table(tmp_path / "exported")
    assert table.column("score:reward").to_pylist() == [row["reward"] for row in scored_rows()]
    assert table.column("group").to_pylist() == [str(row["asked"]) for row in scored_rows()]


def test_a_cache_without_them_keeps_its_bytes(teacher: Path, tmp_path: Path) -> None:
    plain = scored_cache(teacher, tmp_path, score_columns=None, group_column=None)
    assert "scores" not in json.loads((tmp_path / "scored/cache.json").read_text())["data"]
    assert (plain[0].sample.scores, plain[0].sample.group) == ({}, None)
    with pytest.raises(BadInput, match=r"keeps no scores of its data\. Dump with --score-columns reward"):
        column_scores(plain, "reward", "--score column:reward")


def test_other_scores_are_another_plan(teacher: Path, tmp_path: Path) -> None:
    plan = scored_plan(teacher, tmp_path, parts="0")
    dump(plan)
    rows = scored_rows()
    rows[50]["reward"] = 9.0
    (tmp_path / "answers.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    with pytest.raises(CacheMismatch, match="data"):
        dump(plan.model_copy(update={"parts": None}))


def test_tokens_that_are_made_again_bring_their_scores(teacher: Path, tmp_path: Path) -> None:
    assert_told(scored_cache(teacher, tmp_path, keep_tokens=False))


def test_chosen_positions_go_with_scores(teacher: Path, tmp_path: Path) -> None:
    cache = scored_cache(teacher, tmp_path, positions="random:0.5")
    assert_told(cache)
    assert not verify(cache.path)


def test_windows_of_a_document_have_its_scores(teacher: Path, tmp_path: Path) -> None:
    cache = scored_cache(teacher, tmp_path, max_length=24, overlap=4)
    assert len(cache) > PROMPTS * ANSWERS
    correct_D = np.array([float(row["correct"]) for row in scored_rows()])
    np.testing.assert_array_equal(column_scores(cache, "correct", "test"), correct_D[cache.documents()])


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (0.25, 0.25), (True, 1.0), ("true", 1.0), ("False", 0.0), (" -1e-3 ", -0.001), (None, None), ("", None)],
)
def test_a_score_is_a_number_or_none(value: Any, number: float | None) -> None:
    assert score_of(value, "reward", "row 1") == number


@pytest.mark.parametrize("value", [math.inf, "inf", "-Infinity", "good", "1_000", [1], b"1", 10**400])
def test_a_score_that_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match=r"^--data d, row 3: column 'reward' holds .* which is no finite number"):
        score_of(value, "reward", "--data d, row 3")


def test_nan_is_no_score() -> None:
    assert score_of(math.nan, "reward", "row 1") is None
    assert score_of("nan", "reward", "row 1") is None


@pytest.mark.parametrize(
    ("value", "name"), [(3, "3"), ("a", "a"), ("007", "007"), ("[draft", "[draft"), (None, None), ("", None)]
)
def test_a_group_is_a_text_or_a_whole_number(value: Any, name: str | None) -> None:
    assert group_of(value, "asked", "row 1") == name


@pytest.mark.parametrize("value", [0.5, True, [1], "[1]", '{"a": 1}'])
def test_a_group_that_is_something_else_is_refused(value: Any) -> None:
    with pytest.raises(BadInput, match="names no group"):
        group_of(value, "asked", "--data d, row 3")


def test_a_column_that_is_not_there_is_refused(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^--score-columns: --data .* no column named 'rewards'. Did you mean 'reward'"):
        dump(scored_plan(teacher, tmp_path, score_columns="rewards"))
    with pytest.raises(BadInput, match=r"^--group-column: --data .* no column named 'ask'"):
        dump(scored_plan(teacher, tmp_path, group_column="ask"))


def test_a_csv_file_gives_the_same(teacher: Path, tmp_path: Path) -> None:
    with (tmp_path / "answers.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(scored_rows()[0]))
        writer.writeheader()
        writer.writerows(scored_rows())
    assert_told(scored_cache(teacher, tmp_path, data=str(tmp_path / "answers.csv")))


def test_nothing_asked_is_nothing_said() -> None:
    assert not Said()
    assert Said(group="asked")
    assert Said(scores=("reward",))


def test_merge_tells_of_scores_that_are_not_kept(teacher: Path, tmp_path: Path) -> None:
    usual = {"k": 4, "tail": "uniform"}
    plain = scored_cache(teacher, tmp_path, "plain", score_columns=None, group_column=None, **usual)
    some = scored_cache(teacher, tmp_path, "some", score_columns="reward", **usual)
    every = scored_cache(teacher, tmp_path, "every", **usual)

    def told(*caches: Any) -> list[str]:
        notes: list[str] = []
        out = tmp_path / "-".join(each.path.name for each in caches)
        plan = merge_plan(list(caches), out, by="gold")
        made = merge(plan, lambda step: notes.append(step.note) if step.stage == "note" else None)
        assert score_names(made) == score_names(caches[0])
        return notes

    assert told(some, plain) == []
    assert told(plain, some) == [
        f"{some.path}: its scores and groups are not those of {plain.path}, and are not kept. Name it first to keep them."
    ]
    assert len(told(every, some, plain)) == 1
