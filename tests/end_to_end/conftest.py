"""Processes that dump, and the caches they must end in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.settings.dump import AddSettings, DumpSettings
from tests.parts.commands import flags_of
from tests.parts.stranger import Target, make_target
from tests.parts.tasks import Start, Task
from tests.parts.warm import WarmProcess


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a dump, or an add, in a process of its own; whatever is not over when the test is gets killed."""
    processes: list[WarmProcess] = []

    def begin(settings: DumpSettings | AddSettings, stderr: Any = None, **variables: str) -> WarmProcess:
        arguments = (
            ["dump", *flags_of(settings)]
            if isinstance(settings, DumpSettings)
            else ["add", str(settings.cache), *flags_of(settings)]
        )
        processes.append(WarmProcess(*arguments, stderr=stderr, **variables))
        return processes[-1]

    yield begin
    for process in processes:
        process.close()


@pytest.fixture(scope="module")
def whole_dump(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Callable[[int], Path]:
    """Gives a complete cache of many small parts, written by one process, for so many kills; do not change it."""

    @cache
    def made(kills: int) -> Path:
        whole = dump(task.plan(tmp_path_factory.mktemp("many") / "cache", **task.parts_for(kills)))
        assert whole.manifest.parts > 4 * kills
        return Path(whole.path)

    return made


@pytest.fixture(scope="session")
def target(
    tmp_path_factory: pytest.TempPathFactory,
    teacher: Path,
    texts: Path,
    small_student: Path,
    classifier: Path,
    images: Path,
) -> Callable[[str], Target]:
    """Gives a cache of one kind to attack copies of."""

    @cache
    def made(which: str) -> Target:
        return make_target(which, tmp_path_factory.mktemp(which), teacher, texts, small_student, classifier, images)

    return made
