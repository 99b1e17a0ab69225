"""Recipes that would expand, nest or count without end are refused with one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitstore.errors import BadInput
from logitstore.settings import SETTINGS
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.settings.trust import TrustChoice

LAUGHS = "a0: &a0 {x: 1}\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "train: &a {x: *a}\n",
        f"train: {{out: {'[' * 5000}{']' * 5000}}}\n",
        f"train: {{learning_rate: {'9' * 5000}}}\n",
        f"train: {{steps: 0x{'f' * 5000}}}\n",
        "train: {learning_rate: .inf}\n",
        "train: {learning_rate: .nan}\n",
        "train: {out: " + "x" * (1 << 20) + "}\n",
        "train: [" + "1, " * 20_000 + "]\n",
    ],
    ids=["aliases", "itself", "deep", "digits", "hexadecimal", "infinite", "nan", "long", "many"],
)
def test_a_recipe_without_end_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        load(TrainSettings, "train", path, {})
    assert len(str(caught.value)) < 800


def test_an_alias_that_people_write_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("plan: &same {}\ndump: *same\ntrain: {cache: x, learning_rate: 0, out: y}\n")
    with pytest.raises(BadInput) as caught:
        load(TrainSettings, "train", path, {})
    assert "--learning-rate" in str(caught.value)


@pytest.mark.parametrize("command", [name for name in SETTINGS if issubclass(SETTINGS[name], TrustChoice)])
def test_a_recipe_does_not_decide_whether_code_is_run(tmp_path: Path, command: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{command}: {{trust_remote_code: true}}\n")
    with pytest.raises(BadInput, match=f"{command}: trust_remote_code: whoever runs a recipe decides this"):
        load(SETTINGS[command], command, path, {})
