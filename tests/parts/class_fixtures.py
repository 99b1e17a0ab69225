"""Fixtures of the task that classifies texts; `tests.fixtures` hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from tests.parts.classes import CLASSES, classes_plan, labelled_rows, save_bert, save_rows, wordpiece


@pytest.fixture(scope="session")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of three classes of texts, which has positions for 64 tokens."""
    return save_bert(tmp_path_factory.mktemp("judge") / "teacher", wordpiece())


@pytest.fixture(scope="session")
def judge_of_many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher of twenty classes, the same three among them."""
    classes = [*CLASSES, *(f"kind {number}" for number in range(3, 20))]
    return save_bert(tmp_path_factory.mktemp("judge") / "teacher", wordpiece(), classes=classes)


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """44 labelled texts, among them odd ones; do not change it."""
    return save_rows(tmp_path_factory.mktemp("labelled") / "texts.jsonl", labelled_rows())


@pytest.fixture(scope="session")
def more_labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same and 36 more."""
    return save_rows(tmp_path_factory.mktemp("labelled") / "texts.jsonl", labelled_rows(80))


@pytest.fixture(scope="session")
def class_cache(tmp_path_factory: pytest.TempPathFactory, judge: Path, labelled: Path) -> logitstore.Cache:
    """A complete cache of the labelled texts, of five parts; do not change it."""
    return dump(classes_plan(judge, labelled, tmp_path_factory.mktemp("classes") / "cache"))
