"""Selections by scores that the data gave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

import logitstore
from logitstore.errors import BadInput
from logitstore.select.select import select
from logitstore.settings.look import SelectSettings
from logitstore.store.selection import read_selection
from tests.parts.scored import scored_cache, scored_rows

REWARD_S = np.array([np.nan if row["reward"] is None else row["reward"] for row in scored_rows()])


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("scored")
    return scored_cache(teacher, folder, preset="scores", k=None, domain_column="correct")


def chosen(cache: logitstore.Cache, out: Path, **options: Any) -> Any:
    select(SelectSettings(cache=cache.path, out=out, score="column:reward", **options))
    return read_selection(out).samples_M


@pytest.mark.parametrize(("method", "sign"), [("top", -1), ("bottom", 1)])
def test_the_highest_or_lowest_are_chosen(scored: logitstore.Cache, tmp_path: Path, method: str, sign: int) -> None:
    expected = np.sort(np.argsort(sign * REWARD_S, kind="stable")[:15])
    np.testing.assert_array_equal(chosen(scored, tmp_path / "some", method=method, ratio=0.25), expected)


def test_bounds_leave_out_what_has_no_score(scored: logitstore.Cache, tmp_path: Path) -> None:
    expected = np.flatnonzero((REWARD_S >= 0) & (REWARD_S <= 0.4))
    found = chosen(scored, tmp_path / "some", method="top", at_least=0.0, at_most=0.4)
    np.testing.assert_array_equal(found, expected)


def test_the_best_of_each_domain_are_chosen(scored: logitstore.Cache, tmp_path: Path) -> None:
    right_S = np.array([row["correct"] for row in scored_rows()])
    found = chosen(scored, tmp_path / "some", method="stratified", ratio=0.5)
    for is_right, count in ((True, 10), (False, 20)):
        own = np.flatnonzero(right_S == is_right)
        best = np.sort(own[np.argsort(-REWARD_S[own], kind="stable")[:count]])
        np.testing.assert_array_equal(found[right_S[found] == is_right], best)


def test_a_score_that_is_not_kept_is_refused(scored: logitstore.Cache, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="keeps no score named 'rewards'"):
        select(
            SelectSettings(cache=scored.path, out=tmp_path / "some", method="top", ratio=0.5, score="column:rewards")
        )
    with pytest.raises(ValidationError, match="no score is called so"):
        SelectSettings(cache=scored.path, out=tmp_path / "some", score="column:")


def test_a_cache_whose_task_keeps_no_scores_is_told_apart(class_cache: logitstore.Cache, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is a cache of classified texts, which have no scores of their data"):
        chosen(class_cache, tmp_path / "some", method="top", ratio=0.5)
