"""Values by name: several options NAME=VALUE on the command line, a section in a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from logitstore.errors import BadInput
from logitstore.settings.dump import DumpSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings

NEEDED = {"teacher": "t", "data": "d", "out": "o"}


def given(*texts: str) -> dict[str, Any] | None:
    return load(DumpSettings, "dump", None, {**NEEDED, "template_arg": list(texts)}).template_arg


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=false", False),
        ("x=3", 3),
        ("x=2.5", 2.5),
        ("x=null", None),
        ('x="false"', "false"),
        ('x={"a": [1, {"b": null}]}', {"a": [1, {"b": None}]}),
        ("x=high", "high"),
        ("x=none", "none"),
        ("x=26 Jul 2024", "26 Jul 2024"),
        ("x=a=b", "a=b"),
        ("x=", ""),
        ("x=Grüße", "Grüße"),
    ],
)
def test_a_value_is_read_as_json_and_is_text_where_it_is_none(text: str, value: object) -> None:
    assert given(text, "other=1") == {"x": value, "other": 1}


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["enable_thinking"], "names no value"),
        (["=3"], "'' is no name"),
        (["a-b=3"], "'a-b' is no name"),
        (["x=1", "x=2"], "'x' is given twice"),
        (["x=False"], "False is text. Write x=false"),
        (["x=TRUE"], "TRUE is text. Write x=true"),
        (["x=None"], "None is text. Write x=null"),
        (["x=NaN"], "JSON cannot hold"),
        (["x=1e999"], "JSON cannot hold"),
        (['x="\\ud800"'], "JSON cannot hold"),
        (["x=\udcff"], "JSON cannot hold"),
        (["x=" + "9" * 5000], "too long a number"),
        (["x=" + "[" * 100_000], "too long a number, or too deep"),
        (["x=" + "[" * 20 + "]" * 20], "JSON cannot hold"),
    ],
)
def test_what_is_no_value_by_name_is_refused_in_one_line(texts: list[str], why: str) -> None:
    with pytest.raises(BadInput, match=r"^--template-arg ") as caught:
        given(*texts)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("{enable_thinking: false, note: 'False'}", {"enable_thinking": False, "note": "False"}),
        ("['enable_thinking=false']", {"enable_thinking": False}),
        ("{}", {}),
    ],
)
def test_a_recipe_has_a_section_of_values(tmp_path: Path, section: str, value: object) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"dump:\n  template_arg: {section}\n")
    assert load(DumpSettings, "dump", path, NEEDED).template_arg == value
    assert load(DumpSettings, "dump", path, NEEDED | {"template_arg": ["a=1"]}).template_arg == {"a": 1}


@pytest.mark.parametrize("section", ["{day: 2024-07-26}", "{1: 2}", "{x: .nan}", "[3]", "high"])
def test_a_section_of_other_values_is_refused(tmp_path: Path, section: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"dump:\n  template_arg: {section}\n")
    with pytest.raises(BadInput, match=r"^--template-arg"):
        load(DumpSettings, "dump", path, NEEDED)


def test_values_of_set_override_those_of_a_recipe_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("train:\n  trainer: {max_grad_norm: 0.5, optim: sgd}\n")
    given = {"cache": "c", "out": "o", "trainer": ["max_grad_norm=2", "run_name=a b"]}
    assert load(TrainSettings, "train", path, given).trainer == {"max_grad_norm": 2, "optim": "sgd", "run_name": "a b"}
    assert load(TrainSettings, "train", None, given).trainer == {"max_grad_norm": 2, "run_name": "a b"}
    assert load(TrainSettings, "train", path, {"cache": "c", "out": "o"}).trainer == {
        "max_grad_norm": 0.5,
        "optim": "sgd",
    }


@pytest.mark.parametrize("section", [None, "{optim: sgd}"])
@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["max_grad_norm"], "names no value"),
        (["optim=sgd", "optim=sgd"], "'optim' is given twice"),
        (["torch_compile=True"], "Write torch_compile=true"),
    ],
)
def test_what_set_cannot_read_is_refused_by_its_own_name(
    section: str | None, texts: list[str], why: str, tmp_path: Path
) -> None:
    path = None
    if section is not None:
        path = tmp_path / "recipe.yaml"
        path.write_text(f"train:\n  trainer: {section}\n")
    with pytest.raises(BadInput, match=r"^--set") as caught:
        load(TrainSettings, "train", path, {"cache": "c", "out": "o", "trainer": texts})
    assert why in str(caught.value)
