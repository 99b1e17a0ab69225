"""Every task with what the tests of reliability must know of it, and a small cache of it; `tests.fixtures` hands them on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.settings.dump import DumpSettings
from tests.parts.classes import classes_plan
from tests.parts.images import images_plan
from tests.parts.masked import masked_plan
from tests.parts.rankings import ranking_plan
from tests.parts.tasks import Task, classes_task, image_task, masked_task, ranking_task, text_task, vectors_task
from tests.parts.texts import plan_for
from tests.parts.vectors import vectors_plan

TASKS: dict[str, tuple[Callable[..., Task], Callable[..., DumpSettings], str, str]] = {
    "text": (text_task, plan_for, "teacher", "texts"),
    "images": (image_task, images_plan, "classifier", "images"),
    "classes": (classes_task, partial(classes_plan, k=8), "judge_of_many", "more_labelled"),
    "masked": (masked_task, masked_plan, "guesser", "plain_texts"),
    "ranking": (ranking_task, ranking_plan, "ranker", "more_queries"),
    "vectors": (vectors_task, partial(vectors_plan, tap_codec="int8", score_columns="score"), "judge", "more_pairs"),
}
"""Of each task what the tests know of it, its usual dump, and the fixtures with its teacher and its data."""


@pytest.fixture(scope="module", params=TASKS)
def task(request: pytest.FixtureRequest) -> Task:
    """Every test that uses it, or a small cache, is made for each."""
    made, plan, teacher, data = TASKS[request.param]
    return made(partial(plan, request.getfixturevalue(teacher), request.getfixturevalue(data)))


@pytest.fixture(scope="module")
def small_plan(task: Task) -> Callable[..., DumpSettings]:
    """A dump of three small parts."""

    def make(out: Path, **changes: Any) -> DumpSettings:
        return task.plan(out, **task.small | changes)

    return make


@pytest.fixture(scope="session")
def small_caches() -> dict[str, Path]:
    """The small caches that were made so far, by task."""
    return {}


@pytest.fixture(scope="module")
def small_cache(
    tmp_path_factory: pytest.TempPathFactory,
    task: Task,
    small_plan: Callable[..., DumpSettings],
    small_caches: dict[str, Path],
) -> Path:
    """A complete small cache; do not change it."""
    if task.name not in small_caches:
        cache = dump(small_plan(tmp_path_factory.mktemp("small") / "cache"))
        assert cache.manifest.parts == 3
        small_caches[task.name] = cache.path
    return small_caches[task.name]


@pytest.fixture
def small_copy(small_cache: Path, tmp_path: Path) -> Path:
    """The small cache again, to be spoilt."""
    return Path(shutil.copytree(small_cache, tmp_path / "copy"))
