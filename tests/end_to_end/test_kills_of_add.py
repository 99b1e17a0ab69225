"""An `add` that is killed at many moments ends byte-identical."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.settings.dump import AddSettings
from logitstore.store.checks.verify import verify
from tests.parts.commands import logitstore_command
from tests.parts.files import tree
from tests.parts.texts import plan_for


def command(cache: Path) -> list[str]:
    return ["add", str(cache), "--hidden", "all", "--tap-codec", "int8", "--device", "cpu"]


@pytest.mark.slow
def test_an_add_killed_at_many_moments_ends_byte_identical(teacher: Path, texts: Path, tmp_path: Path) -> None:
    plan = plan_for(teacher, texts, tmp_path / "cache", samples_per_part=6)
    cache = dump(plan).path
    whole = Path(shutil.copytree(cache, tmp_path / "whole"))
    add(AddSettings(cache=whole, hidden="all", tap_codec="int8", device="cpu"))
    bare = tree(cache)
    killed = 0
    for wanted in (1, 30, 70):
        process = subprocess.Popen(
            [sys.executable, "-m", "logitstore", *command(cache)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and len(list(cache.glob("taps/*/parts/*/part.json"))) < wanted:
            time.sleep(0.001)
        process.kill()
        killed += process.wait() == -signal.SIGKILL
        assert verify(cache) == []
        there = tree(cache)
        assert {name: there[name] for name in bare} == bare
    assert killed >= 2
    done = logitstore_command(*command(cache))
    assert done.returncode == 0, done.stderr
    assert tree(cache) == tree(whole)
