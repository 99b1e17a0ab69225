"""Caches of data of every form."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.dump.dump import dump
from tests.parts.positions import plan, ugly


@pytest.fixture(scope="package")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return ugly(tmp_path_factory.mktemp("forms"))


@pytest.fixture(scope="package")
def all_rows(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, files: dict[str, Path]
) -> dict[str, logitstore.Cache]:
    """A cache of each form without a choice; do not change it."""
    folder = tmp_path_factory.mktemp("all")
    return {name: dump(plan(teacher, data, folder / name)) for name, data in files.items()}


@pytest.fixture(scope="package")
def some_rows(
    tmp_path_factory: pytest.TempPathFactory, teacher: Path, files: dict[str, Path]
) -> dict[str, logitstore.Cache]:
    """The same by entropy, a quarter of the rows; do not change it."""
    folder = tmp_path_factory.mktemp("some")
    return {name: dump(plan(teacher, data, folder / name, positions="entropy:0.25")) for name, data in files.items()}
