"""What a cache of scores, or of vectors, cannot do is said at the start; what it does holds in every dtype of the teacher."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import logitstore
from logitstore.dump.audit import STEPS, _beyond_rounding
from logitstore.dump.dump import dump
from logitstore.format.codecs.answer import RowCodec
from tests.parts.commands import Command, Refused
from tests.parts.rankings import ranking_plan, save_encoder
from tests.parts.vectors import vectors_plan


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory, labelled: Path) -> logitstore.Cache:
    folder = tmp_path_factory.mktemp("vectors")
    return dump(vectors_plan(save_encoder(folder / "teacher"), labelled, folder / "cache"))


def test_a_choice_by_a_score_that_no_sample_has_is_refused(
    rank_cache: logitstore.Cache, vectors: logitstore.Cache, refused: Refused, tmp_path: Path
) -> None:
    for cache in (rank_cache, vectors):
        for score in ([], ["--score", "nll"]):
            line = refused(
                "select", cache.path, "--method", "top", *score, "--ratio", 0.5, "--out", tmp_path / "x.arrow"
            )
            assert f"no sample of {cache.path} has the score 'nll'" in line
    assert not (tmp_path / "x.arrow").exists()
    line = refused(
        "select",
        vectors.path,
        "--method",
        "top",
        "--score",
        "column:score",
        "--ratio",
        0.5,
        "--out",
        tmp_path / "x.arrow",
    )
    assert "whose scores are of pairs and for judging alone" in line


def test_students_are_compared_before_training_by_distributions_alone(
    rank_cache: logitstore.Cache, vectors: logitstore.Cache, refused: Refused
) -> None:
    for cache, samples in ((rank_cache, "queries with documents"), (vectors, "texts with vectors")):
        line = refused("rank", cache.path, "--fresh", "layers=1", "--steps", 2)
        assert f"{cache.path}: a cache of {samples}, and students are compared by distributions" in line


def test_a_row_of_the_surest_teacher_is_no_mean_of_scores(
    rank_cache: logitstore.Cache, refused: Refused, tmp_path: Path
) -> None:
    other = shutil.copytree(rank_cache.path, tmp_path / "other")
    for by in ("gold", "entropy"):
        line = refused("merge", rank_cache.path, other, "--out", tmp_path / "mean", "--by", by)
        assert f"--by {by}: {rank_cache.path} keeps one score of each row, whose mean is taken. Leave it out." in line


def test_scores_of_a_teacher_in_bfloat16_agree_with_it(
    ranker: Path, queries: Path, tmp_path: Path, command: Command
) -> None:
    cache = dump(ranking_plan(ranker, queries, tmp_path / "cache", dtype="bfloat16", batch_tokens=4096))
    assert command("verify", cache.path, "--against-teacher", ranker, "--share", 0.05) == 0


@pytest.mark.parametrize(("dtype", "step"), STEPS.items())
def test_a_score_may_be_the_next_number_of_its_dtype_and_no_other(
    rank_cache: logitstore.Cache, dtype: str, step: float
) -> None:
    codec = RowCodec(row=rank_cache.manifest.row)
    now = np.array([[1.0], [-3.0]])
    assert _beyond_rounding(now * (1 + step), now, codec, dtype) == 0
    assert _beyond_rounding(now * (1 + 3 * step), now, codec, dtype) == pytest.approx(6 * step, rel=1e-6)
