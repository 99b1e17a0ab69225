"""The commands take the address of an object store for a cache of every task."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import logitstore
from tests.parts.commands import Command, flags_of
from tests.parts.files import tree
from tests.parts.marks import often
from tests.parts.stranger import OTHERS
from tests.store.remote.conftest import far, server

__all__ = ["far", "server"]

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("which", often(OTHERS, lambda which: which == "vectors"))
def test_commands_work_with_far_caches(
    command: Command, tmp_path: Path, far: Callable[[str], str], capsys: pytest.CaptureFixture[str], which: str
) -> None:
    def done(*arguments: object) -> str:
        capsys.readouterr()
        assert command(*arguments) == 0, (arguments, capsys.readouterr())
        return capsys.readouterr().out

    plan, student = OTHERS[which](tmp_path)
    cache, near = far("cache"), tmp_path / "near"
    done("dump", *flags_of(plan.model_copy(update={"out": cache})))
    done("dump", *flags_of(plan.model_copy(update={"out": near})))
    assert "sound" in done("verify", cache)
    assert done("inspect", cache, "--sample", "1") == done("inspect", near, "--sample", "1")
    done("recode", cache, "--layout", "archive", "--out", far("archive"))
    done("recode", far("archive"), "--layout", "mapped", "--out", tmp_path / "back")
    done("merge", cache, near, "--out", far("merged"))
    assert "sound" in done("verify", far("merged"))
    done("select", cache, "--method", "random", "--ratio", "0.5", "--out", tmp_path / "half.arrow")
    learner = ("--student", student, "--device", "cpu", "--batch-size", "4")
    steps = ("--max-steps", "3", "--holdout", "0.2", "--select", tmp_path / "half.arrow")
    done("train", cache, *learner, *steps, "--out", tmp_path / "run")
    done("evaluate", cache, *learner)
    assert "complete" in done("status", cache)
    done("pull", cache, tmp_path / "pulled")
    assert counted(tmp_path / "pulled") == counted(near)
    where = r"parts/|taps/final/parts/" if which == "vectors" else "parts/"
    rows, again = (parts_of(each, where) for each in (near, tmp_path / "back"))
    assert rows
    assert rows == again
    done("push", near, far("pushed"))
    assert logitstore.open(far("pushed")).complete


def parts_of(cache: Path, where: str) -> dict[str, bytes]:
    """The samples of a cache, and its rows or its vectors. `recode` leaves other taps out."""
    return {name: content for name, content in tree(cache).items() if re.match(where, name)}


def counted(cache: Path) -> dict[str, bytes]:
    """What is part of a cache."""
    return {name: content for name, content in tree(cache).items() if not name.startswith("sidecars/")}
