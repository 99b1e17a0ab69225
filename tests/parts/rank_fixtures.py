"""Fixtures of the task of ranking; `tests.fixtures` hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from tests.parts.rankings import query_rows, ranking_plan, save_cross_encoder, save_rows


@pytest.fixture(scope="session")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cross-encoder, which has positions for 64 tokens."""
    return save_cross_encoder(tmp_path_factory.mktemp("ranker") / "teacher")


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 queries with lists of documents; do not change it."""
    return save_rows(tmp_path_factory.mktemp("queries") / "queries.jsonl", query_rows())


@pytest.fixture(scope="session")
def more_queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and 56 more."""
    return save_rows(tmp_path_factory.mktemp("queries") / "queries.jsonl", query_rows(80))


@pytest.fixture(scope="session")
def rank_cache(tmp_path_factory: pytest.TempPathFactory, ranker: Path, queries: Path) -> logitstore.Cache:
    """A complete cache of the queries, of five parts; do not change it."""
    return dump(ranking_plan(ranker, queries, tmp_path_factory.mktemp("ranking") / "cache"))
