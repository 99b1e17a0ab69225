"""Fixtures of the task of masked words; `tests.fixtures` hands them on."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from tests.parts.classes import wordpiece
from tests.parts.masked import masked_plan, masked_texts, save_masked, save_texts


@pytest.fixture(scope="session")
def guesser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher that fills in masked tokens, which has positions for 64 of them."""
    return save_masked(tmp_path_factory.mktemp("guesser") / "teacher", wordpiece())


@pytest.fixture(scope="session")
def plain_texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 texts, among them odd ones; do not change it."""
    return save_texts(tmp_path_factory.mktemp("plain") / "texts.jsonl", masked_texts())


@pytest.fixture(scope="session")
def masked_cache(tmp_path_factory: pytest.TempPathFactory, guesser: Path, plain_texts: Path) -> logitstore.Cache:
    """A complete cache of two masks of each text, of several parts; do not change it."""
    return dump(masked_plan(guesser, plain_texts, tmp_path_factory.mktemp("masked") / "cache"))
