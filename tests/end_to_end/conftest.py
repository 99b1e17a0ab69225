"""Processes that dump, and the caches they must end in."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.settings.dump import AddSettings, DumpSettings
from tests.parts.commands import flags_of
from tests.parts.tasks import Start, Task


@pytest.fixture
def start() -> Iterator[Start]:
    """Begins a dump, or an add, in a process of its own; whatever is not over when the test is gets killed."""
    processes: list[subprocess.Popen[str]] = []

    def begin(
        settings: DumpSettings | AddSettings, stderr: Any = subprocess.PIPE, **variables: str
    ) -> subprocess.Popen[str]:
        arguments = (
            ["dump", *flags_of(settings)]
            if isinstance(settings, DumpSettings)
            else ["add", str(settings.cache), *flags_of(settings)]
        )
        command = [sys.executable, "-m", "logitstore", *arguments]
        output = {"stdout": subprocess.DEVNULL, "stderr": stderr, "text": True}
        # a shell starts its background jobs with SIGINT ignored, and what they start would inherit that
        listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        processes.append(subprocess.Popen(command, env=os.environ | variables, preexec_fn=listen, **output))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def many_parts(tmp_path_factory: pytest.TempPathFactory, task: Task) -> Path:
    """A complete cache of 113 or 90 parts of two samples, written by one process; do not change it."""
    cache = dump(task.plan(tmp_path_factory.mktemp("many") / "cache", **task.many))
    assert cache.manifest.parts > 5 * max(task.kills, task.interrupts)
    return cache.path
