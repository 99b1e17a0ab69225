"""Taps that are added: any mixture of what is there ends in the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from logitstore.core.progress import Step
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.dump.parts import write_part
from logitstore.errors import CacheMismatch
from logitstore.settings.dump import AddSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.store.writer import PartTaken
from tests.parts.files import tree
from tests.parts.taps import small_taps_plan
from tests.parts.warm import WarmProcess


def test_any_mixture_of_parts_and_taps_that_are_there_ends_in_the_same_bytes(
    tapped: Path, tapped_copy: Path, teacher: Path, texts: Path
) -> None:
    for gone in (
        ["parts/00001", "taps/final/parts/00001", "taps/key-2/parts/00000", "taps/query-2"],
        ["parts/00000", "parts/00001", "parts/00002"],
        ["taps"],
    ):
        for name in gone:
            shutil.rmtree(tapped_copy / name)
        assert verify(tapped_copy) == []
        dump(small_taps_plan(teacher, texts, tapped_copy, hidden="0,1,final", qkv="2", tap_codec="float32"))
        assert tree(tapped_copy) == tree(tapped)


def test_parts_may_be_added_one_after_the_other(tapped: Path, bare_copy: Path) -> None:
    for parts in ("2", "0", "0-1"):
        cache = add(AddSettings(cache=bare_copy, hidden="1", tap_codec="float32", parts=parts, device="cpu"))
        assert set(layout.parse_parts(parts, 3)) <= set(cache.taps["hidden-1"].part_numbers)
    assert tree(bare_copy / "taps") == tree_of(tapped, "hidden-1")


def tree_of(cache: Path, *names: str) -> dict[str, bytes]:
    """The files of some taps, relative to `taps/`."""
    return {path: content for path, content in tree(cache / "taps").items() if path.split("/")[0] in names}


def test_what_is_there_is_not_asked_for_again(tapped_copy: Path, teacher: Path) -> None:
    """The teacher is not even loaded."""
    steps: list[Step] = []
    add(AddSettings(cache=tapped_copy, hidden="0,final", qkv="2", device="cpu"), steps.append)
    assert steps == []


@pytest.mark.slow
def test_two_processes_begin_the_same_taps_together(tapped: Path, bare_copy: Path) -> None:
    """Both write all parts; whoever is first with one keeps it."""
    options = ["--hidden", "0,1,final", "--qkv", "2", "--tap-codec", "float32", "--device", "cpu"]
    processes = [WarmProcess("add", bare_copy, *options) for _ in range(2)]
    for process in processes:
        _, stderr = process.communicate(timeout=180)
        assert process.returncode == 0, stderr
    assert tree(bare_copy) == tree(tapped)


class Out:
    """A part being written, which remembers what became of it."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    def __enter__(self) -> Out:
        return self

    def __exit__(self, *error: Any) -> None:
        self.happened.append("closed")

    def store(self, batch: Any, kept: dict[str, Any]) -> None:
        self.happened.append("stored")

    def commit(self) -> None:
        self.happened.append("committed")


def test_what_another_process_was_first_with_is_not_asked_for() -> None:
    """Otherwise rows would be compared with the teacher of which no part says so."""
    out, asked = Out(), []

    def taken() -> Out:
        raise PartTaken(0)

    def ask(names: list[str]) -> Any:
        asked.append(names)
        yield SimpleNamespace(rows_N=torch.zeros(3)), dict

    write_part({"answers": taken, "final": lambda: out}, ask, lambda rows: None)
    write_part({"answers": taken}, ask, lambda rows: None)
    assert asked == [["final"]]
    assert out.happened == ["stored", "committed", "closed"]


@pytest.mark.parametrize(
    "changes", [{"rms_norm_eps": 0.5}, {"rope_parameters": {"rope_type": "default", "rope_theta": 9.0}}]
)
def test_a_teacher_of_another_configuration_is_refused(
    cache: Cache, teacher: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Its weights are the same; what it computes is not."""
    other, copy = tmp_path / "other", tmp_path / "cache"
    shutil.copytree(teacher, other)
    shutil.copytree(cache.path, copy)
    said = json.loads((other / "config.json").read_text())
    settings = AddSettings(cache=copy, teacher=str(other), hidden="1", device="cpu")
    (other / "config.json").write_text(json.dumps(said | changes))
    with pytest.raises(CacheMismatch, match=rf"its configuration has {min(changes)}\S* = \S+, and .* was made with"):
        add(settings)
    (other / "config.json").write_text(json.dumps(said | {"a_later_entry": 1}))
    assert list(add(settings).taps) == ["hidden-1"]
