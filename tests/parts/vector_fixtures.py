"""Fixtures of the task of vectors; `tests.fixtures` hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from tests.parts.classes import save_rows
from tests.parts.vectors import scored_rows, vectors_plan


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 pairs of texts with scores; do not change it."""
    return save_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", scored_rows())


@pytest.fixture(scope="session")
def more_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and 18 more."""
    return save_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", scored_rows(80))


@pytest.fixture(scope="session")
def vector_cache(tmp_path_factory: pytest.TempPathFactory, judge: Path, pairs: Path) -> logitstore.Cache:
    """A complete cache of the vectors of 44 texts in pairs, of five parts; do not change it."""
    out = tmp_path_factory.mktemp("vectors") / "cache"
    return dump(vectors_plan(judge, pairs, out, score_columns="score", normalise=True))
