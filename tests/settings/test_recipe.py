"""Recipes and settings of training that cannot be used are named with what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from logitstore.store.cache import Cache
from tests.parts.commands import Refused


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("dupm:\n  k: 8\n", "no section named 'dupm'. Did you mean 'dump'?"),
        ("dump:\n  max_lenght: 8\n", "no setting named 'max_lenght'. Did you mean 'max_length'?"),
        ("dump: {teacher: a, data: b, out: c, k: many}\n", "--k many: "),
        ("dump: [1, 2\n", "not valid YAML"),
        ("dump:\n\tk: 8\n", "not valid YAML"),
        ("a sentence", "a recipe has one section for each command"),
        ("", "a recipe has one section for each command"),
        ("- dump\n", "a recipe has one section for each command"),
        ("dump: 8\n", "a recipe has one section for each command"),
        ("dump:\n  8: 8\n", "no setting named '8'"),
        ("8:\n  k: 8\n", "no section named '8'"),
        ("dump: {k: \0}\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "not valid YAML"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named_with_what_is_wrong(
    refused: Refused, tmp_path: Path, recipe: str | bytes, expected: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(recipe if isinstance(recipe, bytes) else recipe.encode())
    line = refused("dump", "--config", path)
    assert expected in line
    assert str(path) in line or expected.startswith("--")


def test_a_recipe_that_is_not_there_is_named(refused: Refused, tmp_path: Path) -> None:
    assert f"--config {tmp_path}/absent.yaml" in refused("train", "--config", tmp_path / "absent.yaml")
    assert f"--config {tmp_path}: cannot be read" in refused("train", "--config", tmp_path)


def test_an_unknown_setting_of_the_trainer_is_named(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("train:\n  trainer: {learning_rat: 1}\n")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", path)
    assert "learning_rat" in line


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("terms: [{name: reverse_kl, temperature: 0}]", "terms.0.temperature 0: must be above 0."),
        ("terms: [{name: match}, {name: dkd, weight: -1}]", "terms.1.weight -1: must not be below 0."),
        ("terms: [{name: dkd, weight: .nan}]", "terms.0.weight nan: 'nan' is not finite."),
        ("terms: [{name: dkd, weight: heavy}]", "terms.0.weight heavy: 'heavy' is no schedule."),
        ("terms: [{weight: 1}]", "train needs terms.0.name."),
        ("alpha: .nan", "--alpha nan: 'nan' is not finite."),
        ("{objective: skew_reverse_kl, options: {skew: 1.0}}", "skew 1: it must be above 0 and below 1."),
        ("{objective: jensen_shannon, options: {beta: 0.0}}", "beta 0: it must be above 0 and below 1."),
        ("{objective: taid, options: {start: 0.9, end: 0.1}}", "start 0.9 and end 0.1: t goes from start up to end"),
        (
            "{terms: [{name: sinkhorn, options: {epsilon: -1.0}}]}",
            "epsilon -1 and iterations 20: both must be positive.",
        ),
        (
            "{objective: dkd, options: {target_weight: .inf}}",
            "objective dkd: target_weight is inf, but must be finite.",
        ),
        (
            "{objective: none, alpha: 0.5, terms: [{name: dkd}]}",
            "--objective none with --alpha 0.5: it belongs to the objective",
        ),
        ("{objective: none, temperature: 2, terms: [{name: dkd}]}", "--objective none with --temperature 2.0: "),
        (
            "{objective: none, options: {beta: 0.5}, terms: [{name: dkd}]}",
            "--objective none with options {'beta': 0.5}: ",
        ),
        (
            "{objective: dkd, alpha: 0, options: {target_weight: 2.0}}",
            "--alpha 0 with options {'target_weight': 2.0}: ",
        ),
        ("{alpha: 0, temperature: 2}", "--alpha 0 with --temperature 2.0: the objective weighs nothing"),
        ("{alpha: 0, objective: reverse_kl}", "--alpha 0 with --objective reverse_kl: the objective weighs nothing"),
        ("{holdout: 0, evaluate_every: 3}", "--evaluate-every 3: with --holdout 0 there is nothing to evaluate on"),
        ("{scheduler: constant, warmup: 0.5}", "--warmup 0.5: the schedule constant has none"),
        ("terms: [{name: match, temperature: 2}]", "terms: match: temperature 2.0: features have none."),
        ("terms: [{name: dkd, weight: balanced}]", "terms: dkd: only pulls on features can be balanced."),
        (
            "terms: [{name: mutual_information, weight: balanced}]",
            "terms: mutual_information: its loss may be negative",
        ),
        ("{objective: none, terms: [{name: match, weight: balanced}]}", "terms: match: nothing pulls on the logits"),
        (
            "{objective: none, terms: [{name: match, weight: balanced}, {name: dkd, weight: 0}, {name: square_head}]}",
            "terms: match: nothing pulls on the logits",
        ),
    ],
)
def test_settings_of_pulls_that_do_nothing_or_harm_are_refused_before_anything_is_made(
    refused: Refused, cache: Cache, small_student: Path, tmp_path: Path, settings: str, expected: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"train: {settings}\n" if settings.startswith("{") else f"train:\n  {settings}\n")
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--config", path)
    assert expected in line
    assert not (tmp_path / "out").exists()


def test_an_unknown_schedule_is_named(refused: Refused, cache: Cache, small_student: Path, tmp_path: Path) -> None:
    line = refused("train", cache.path, "--student", small_student, "--out", tmp_path / "out", "--scheduler", "cosin")
    assert "cosin" in line
