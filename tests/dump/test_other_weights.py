"""A dump into a complete cache by a teacher that differs in nothing but its weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from logitstore.dump import dump as dumping
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch
from logitstore.settings.dump import DumpSettings
from tests.parts.files import tree


def other_weights(teacher: Path, out: Path) -> Path:
    """The same model but for one number of its weights."""
    shutil.copytree(teacher, out)
    weights = load_file(out / "model.safetensors")
    name = min(weights)
    weights[name].flatten()[0] += 0.5
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_other_weights_are_refused_and_the_same_ones_elsewhere_are_not(
    small_plan: Callable[..., DumpSettings], small_cache: Path, small_copy: Path, tmp_path: Path
) -> None:
    before = tree(small_copy)
    plan = small_plan(small_copy)
    other = plan.model_copy(update={"teacher": str(other_weights(Path(plan.teacher), tmp_path / "other"))})
    with pytest.raises(CacheMismatch, match="its weights are not those that") as told:
        dump(other)
    assert plan.teacher in str(told.value)
    assert other.teacher in str(told.value)
    shutil.copytree(plan.teacher, tmp_path / "moved")
    assert dump(plan.model_copy(update={"teacher": str(tmp_path / "moved")})).complete
    assert tree(small_copy) == before


def test_the_same_name_loads_no_weights(
    small_plan: Callable[..., DumpSettings], small_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(dumping, "load_teacher", never)
    assert dump(small_plan(small_copy)).complete
