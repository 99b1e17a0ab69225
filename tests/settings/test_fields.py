"""What every command is told means the same however it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

from logitstore.core.record import Record
from logitstore.settings import SETTINGS
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings


def places(kind: type[Record]) -> list[str]:
    """Settings that are paths, or may be none."""
    return [name for name, field in kind.model_fields.items() if Path in parts_of(field.annotation)]


def parts_of(annotation: Any) -> list[Any]:
    """An annotation and everything that it is made of."""
    return [annotation, *(part for each in get_args(annotation) for part in parts_of(each))]


@pytest.mark.parametrize("command", SETTINGS)
def test_a_tilde_is_the_home_in_every_path_and_model(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    kind = SETTINGS[command]
    paths = places(kind)
    assert {"cache", "out", "prepared"} & set(paths)
    models = {"teacher", "student", "against_teacher"} & kind.model_fields.keys()
    fields = kind.model_fields
    needed = {name: True if fields[name].annotation is bool else "x" for name in fields if fields[name].is_required()}
    several = {name for name in (*paths, *models) if get_origin(fields[name].annotation) is list}
    said = {name: ["~/a b"] if name in several else "~/a b" for name in (*paths, *models)}
    found = kind.model_validate(needed | said)
    home = Path("/home/me/a b")
    assert {name: getattr(found, name) for name in paths} == {
        name: [home] if name in several else home for name in paths
    }
    assert {name: getattr(found, name) for name in models} == {
        name: [str(home)] if name in several else str(home) for name in models
    }


def test_a_tilde_is_the_home_in_recipes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("train: {cache: ~/c, out: no~tilde/~, student: [~/a, '~nobody-here/b']}")
    found = load(TrainSettings, "train", Path("~/recipe.yaml"), {"out": None})
    assert (found.cache, found.out) == (tmp_path / "c", Path("no~tilde/~"))
    assert found.students == [f"{tmp_path}/a", "~nobody-here/b"]
