"""Every command takes the address of an object store wherever it takes the folder of a cache."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.settings import SETTINGS
from logitstore.settings.stores.local_cache import LocalCacheChoices
from logitstore.store.remote.settings import local_cache, local_cache_size
from logitstore.store.storage import open_storage
from tests.parts.commands import Command, Refused, flags_of
from tests.parts.texts import plan_for
from tests.parts.warm import WarmProcess
from tests.store.remote.conftest import far, server

__all__ = ["far", "server"]

pytestmark = pytest.mark.slow

Far = Callable[[str], str]


def test_every_command_works_with_far_caches(
    command: Command,
    teacher: Path,
    texts: Path,
    small_student: Path,
    tmp_path: Path,
    far: Far,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOGITSTORE_CACHE_SIZE", "1GB")  # what the commands set is set back

    def done(*arguments: object, code: int = 0) -> str:
        capsys.readouterr()
        assert command(*arguments) == code, (arguments, capsys.readouterr())
        return capsys.readouterr().out

    def dumped(name: str, **changes: Any) -> str:
        plan = plan_for(teacher, texts, far(name), samples_per_part=4, limit=12, **changes)  # type: ignore[arg-type]
        done("dump", *flags_of(plan))
        return far(name)

    cache = dumped("cache", preset="exact", k=None)
    other = dumped("other")
    done("add", cache, "--hidden", "1", "--tap-codec", "int8")
    assert set(logitstore.open(cache).taps) == {"hidden-1"}
    assert json.loads(done("inspect", cache, "--json"))["complete"]
    assert "token" in done("inspect", cache, "--sample", "0")
    assert "sound" in done("verify", cache)
    assert "no problem" in done("verify", cache, "--share", "0.5", "--local-cache", tmp_path / "other-node")
    done("sidecar", cache, "--of", "means", "--tap", "hidden-1")
    recoded = far("recoded")
    done("recode", cache, "--preset", "topk", "-k", "4", "--out", recoded)
    done("recode", recoded, "--layout", "archive", "--out", tmp_path / "near")
    done("recode", tmp_path / "near", "--layout", "mapped", "--out", far("back"))
    done("merge", cache, other, "-k", "8", "--out", far("merged"))
    for each in (recoded, far("back"), far("merged"), other):
        assert "sound" in done("verify", each)
    done("select", cache, "--reference", other, "--ratio", "0.5", "--out", tmp_path / "half.arrow")
    student = ("--student", small_student, "--holdout", "0.2", "--batch-size", "4")
    small = ("--local-cache", tmp_path / "small", "--local-cache-size", "3MB")
    steps = ("--max-steps", "3", "--out", tmp_path / "student", "--select", tmp_path / "half.arrow")
    done("train", cache, *student, *steps, *small)
    done("evaluate", cache, *student)
    done("rank", cache, *student, "--steps", "0")
    status = json.loads(done("status", cache, "--json"))
    assert [(each["name"], each["missing"]) for each in status] == [("cache", ""), ("hidden-1", "")]
    done("pull", cache, tmp_path / "pulled", "--taps", "none")
    done("push", tmp_path / "pulled", far("again"))
    assert "complete" in done("status", far("again"))
    far_objects = logitstore.open(other).storage._objects  # type: ignore[attr-defined]
    far_objects.put("parts/00001.zip", far_objects.read("parts/00001.zip")[:-7])
    assert "00001" in done("verify", other, "--repair", code=1)
    assert "1" in done("status", other)


def test_an_interrupted_push_ends_with_130_and_goes_on(
    teacher: Path, texts: Path, tmp_path: Path, far: Far, command: Command
) -> None:
    made = dump(plan_for(teacher, texts, tmp_path / "near", samples_per_part=1))
    process = WarmProcess("push", tmp_path / "near", far("cache"), "--streams", 1)
    deadline = time.monotonic() + 120
    while not any(open_storage(far("cache")).list_parts()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith(f"interrupted. {far('cache')} keeps every part written so far")
    assert 0 < len(open_storage(far("cache")).list_parts()) < made.manifest.parts
    assert command("push", tmp_path / "near", far("cache")) == 0
    assert logitstore.open(far("cache")).complete
    staged = Path(os.environ["LOGITSTORE_CACHE"]) / ".staging"
    assert [path for path in staged.rglob("*") if path.is_file()] == []


def test_the_folder_of_the_node_is_an_option_and_an_argument(
    refused: Refused, cache: logitstore.Cache, tmp_path: Path, far: Far, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGITSTORE_CACHE", "LOGITSTORE_CACHE_SIZE"):
        monkeypatch.setenv(name, "1GB")  # what the commands set is set back
    line = refused("inspect", cache.path, "--local-cache", tmp_path / "node")
    assert line.endswith("no cache of this command lies in an object store. Leave it out.")
    line = refused("inspect", far("none"), "--local-cache-size", "much")
    assert "--local-cache-size much: " in line
    line = refused("inspect", far("none"), "--local-cache-size", "3MB", "--local-cache", tmp_path / "here")
    assert "so it is not a logitstore cache" in line
    assert (local_cache(), local_cache_size()) == (tmp_path / "here", 3_000_000)
    with pytest.raises(BadInput, match="no cache of this command"):
        logitstore.open(cache.path, local_cache=tmp_path)
    with pytest.raises(BadInput, match="Write a size such as 500GB"):
        logitstore.open(far("none"), local_cache_size="much")


def test_every_command_that_reads_a_cache_has_the_options() -> None:
    has = {name for name in SETTINGS if issubclass(SETTINGS[name], LocalCacheChoices)}
    readers = {
        "add",
        "recode",
        "merge",
        "inspect",
        "export",
        "verify",
        "select",
        "sidecar",
        "train",
        "rank",
        "evaluate",
    }
    assert has == readers
