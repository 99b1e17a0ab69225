"""The recipes on scores train a bi-encoder from a real cache, by the losses of their papers."""

from __future__ import annotations

from pathlib import Path

import pytest

import logitstore
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.train.train import train
from tests.parts.rankings import save_encoder
from tests.parts.training import curve

RECIPES = ("margin_mse", "ranknet", "dear")


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_on_scores_trains(rank_cache: logitstore.Cache, tmp_path: Path, recipe: str) -> None:
    told = {
        "cache": rank_cache.path,
        "student": str(save_encoder(tmp_path / "student")),
        "out": tmp_path / "out",
        "max_steps": 20,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "device": "cpu",
        "holdout": 0.2,
        "trainer": {"logging_steps": 1},
    }
    train(load(TrainSettings, "train", None, told, named=recipe))
    losses = list(curve(tmp_path / "out").values())
    assert len(losses) == 20
    assert sum(losses[-6:]) < sum(losses[:6])


def test_dear_is_nine_tenths_of_the_preferences_and_a_tenth_of_the_list() -> None:
    asked = load(TrainSettings, "train", None, {"cache": "c", "out": "o"}, named="dear")
    assert asked.objective == "none"
    assert [(each.name, each.weight, each.temperature, each.options) for each in asked.terms] == [
        ("ranknet", 0.9, 1.0, {"soft": True}),
        ("list_kl", 0.1, 2.0, {}),
    ]


def test_margin_mse_has_the_authors_batch_and_learning_rate() -> None:
    asked = load(TrainSettings, "train", None, {"cache": "c", "out": "o"}, named="margin_mse")
    assert (asked.objective, asked.options, asked.batch_size, asked.learning_rate) == (
        "margin_mse",
        {"pairs": "labels"},
        32,
        7e-6,
    )
