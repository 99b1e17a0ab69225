"""Caches of scores become other caches: packed, and the mean of two teachers with different tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import logitstore
from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.store.checks.verify import verify
from tests.parts.classes import wordpiece
from tests.parts.files import tree
from tests.parts.rankings import query_rows, ranking_plan, save_cross_encoder, save_rows


@pytest.fixture(scope="module")
def other_cache(tmp_path_factory: pytest.TempPathFactory, queries: Path) -> logitstore.Cache:
    """The same queries scored by another teacher with another tokenizer, in parts of another size."""
    folder = tmp_path_factory.mktemp("other")
    teacher = save_cross_encoder(folder / "teacher", seed=7, tokenizer=wordpiece(250), vocab_size=260)
    return dump(ranking_plan(teacher, queries, folder / "cache", samples_per_part=16))


def scores(cache: logitstore.Cache) -> np.ndarray[Any, Any]:
    return np.concatenate([cache[number].answer["score"] for number in range(len(cache))])


def test_the_mean_of_two_teachers_is_the_mean_of_their_scores(
    rank_cache: logitstore.Cache, other_cache: logitstore.Cache, tmp_path: Path
) -> None:
    settings = MergeSettings(caches=[rank_cache.path, other_cache.path], out=tmp_path / "mean", weights="1,3")
    mean = merge(settings)
    expected = (scores(rank_cache).astype(np.float64) + 3 * scores(other_cache).astype(np.float64)) / 4
    np.testing.assert_allclose(scores(mean), expected, rtol=1e-6)
    assert verify(mean.path) == []
    assert [tokens.tolist() for tokens in mean[4].sample.tokens] == [
        tokens.tolist() for tokens in rank_cache[4].sample.tokens
    ]
    whole = tree(mean.path)
    (mean.path / "parts" / "00002" / "part.json").unlink()
    assert tree(merge(settings).path) == whole


@pytest.mark.parametrize("changes", [{"preset": "topk"}, {"by": "entropy"}, {"k": 2}])
def test_a_mean_of_scores_keeps_scores(
    rank_cache: logitstore.Cache, other_cache: logitstore.Cache, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="keeps one score of each row, whose mean is taken"):
        merge(MergeSettings(caches=[rank_cache.path, other_cache.path], out=tmp_path / "mean", **changes))


def test_queries_with_other_labels_are_not_merged(rank_cache: logitstore.Cache, ranker: Path, tmp_path: Path) -> None:
    rows = query_rows()
    rows[3]["labels"][0] = 2
    other = dump(ranking_plan(ranker, save_rows(tmp_path / "rows.jsonl", rows), tmp_path / "labels"))
    with pytest.raises(CacheMismatch, match="their documents or the labels differ"):
        merge(MergeSettings(caches=[rank_cache.path, other.path], out=tmp_path / "mean"))


def test_a_cache_is_packed_without_the_teacher(rank_cache: logitstore.Cache, tmp_path: Path) -> None:
    packed = recode(RecodeSettings(cache=rank_cache.path, out=tmp_path / "packed", layout="archive"))
    assert scores(packed).tolist() == scores(rank_cache).tolist()
    assert verify(packed.path) == []
    with pytest.raises(BadInput, match="--preset topk: it is about distributions"):
        recode(RecodeSettings(cache=rank_cache.path, out=tmp_path / "topk", preset="topk"))
