"""Caches of images recoded and merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from logitstore.convert.merge import merge
from logitstore.convert.recode import recode
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.settings.convert import MergeSettings, RecodeSettings
from logitstore.settings.dump import AddSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.targets.dense import dense_logprobs
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.images import images_plan, save_classifier, small_resnet
from tests.parts.marks import rarely
from tests.parts.vision import given, viewed


def test_the_mean_of_two_teachers_is_that_of_their_probabilities(
    classifier: Path, images: Path, tmp_path: Path, refused: Refused
) -> None:
    other = save_classifier(tmp_path / "other", small_resnet(9))
    whole: dict[str, Any] = {"k": 10, "tail": "none", "logprobs": "float32"}
    first = dump(images_plan(classifier, images, tmp_path / "first", **whole))
    second = dump(images_plan(other, images, tmp_path / "second", samples_per_part=7, **whole))
    made = merge(MergeSettings(caches=[first.path, second.path], out=tmp_path / "mean", weights="1,3", **whole))
    assert verify(made.path) == []
    loaders = [each.loader(batch_size=len(first), shuffle=False, workers=0) for each in (first, second, made)]
    batches = [next(iter(loader)) for loader in loaders]
    assert torch.equal(batches[0].pixel_values, batches[2].pixel_values)
    dense = [dense_logprobs(loader.targets(batch)).exp() for loader, batch in zip(loaders, batches, strict=True)]
    torch.testing.assert_close(dense[2], dense[0] / 4 + dense[1] * 3 / 4, rtol=1e-4, atol=1e-6)
    student = save_classifier(tmp_path / "student", small_resnet(5))
    settings = {"cache": made.path, "student": str(student), "out": tmp_path / "out", "max_steps": 2, "device": "cpu"}
    train(load(TrainSettings, "train", None, settings, named="meal_v2"))
    unlike = dump(images_plan(other, images, tmp_path / "unlike", seed=5, **whole))
    said = refused("merge", first.path, unlike.path, "--out", tmp_path / "no")
    assert "their views are made in other ways" in said


@pytest.mark.parametrize("by", ["gold", "confidence"])
def test_each_view_has_the_answer_of_the_teacher_that_is_best_for_it(
    image_cache: Cache, images: Path, tmp_path: Path, by: str
) -> None:
    """By gold a view without a label is that of the first cache."""
    other = save_classifier(tmp_path / "other", small_resnet(9))
    shape = image_cache.manifest.model_dump(include={"views", "samples_per_part"})
    second = dump(images_plan(other, images, tmp_path / "second", **shape | {"samples_per_part": 7}))
    whole: dict[str, Any] = {"sparsifier": "dense"}
    assert second.manifest.sparsifier.name == "topk"
    sources = [
        recode(RecodeSettings(cache=each.path, out=tmp_path / str(place), tail="uniform"))
        for place, each in enumerate((image_cache, second))
    ]
    for rows in ({}, whole):
        made = merge(MergeSettings(caches=[each.path for each in sources], out=tmp_path / f"{rows}", by=by, **rows))
        assert verify(made.path) == []
        counts = np.zeros(2, np.int64)
        for index in range(len(made)):
            one, another, found = (each[index].answer for each in (*sources, made))
            gold = [float(each["gold_logprob"][0]) for each in (one, another)]
            top = [float(np.exp(each["logprobs"][0].astype(np.float64)).max()) for each in (one, another)]
            first, second_score = gold if by == "gold" else top
            if by == "confidence" and abs(first - second_score) < 2e-3:  # both were rounded
                is_second = found["entropy"][0] == another["entropy"][0]
            else:
                is_second = second_score > first  # False where both are NaN
            counts[int(is_second)] += 1
            expected = another if is_second else one
            for name in found.fields if not rows else ("gold_logprob", "entropy"):
                np.testing.assert_array_equal(found[name], expected[name])
        assert (
            sum((np.array(record.chosen) for record in made.records), np.zeros(2, np.int64)).tolist() == counts.tolist()
        )
        assert counts.min() > 0 or by == "confidence"
        assert made.sums.no_gold == image_cache.sums.no_gold == 6


def test_a_student_learns_from_two_teachers_at_once(
    image_cache: Cache, images: Path, tmp_path: Path, refused: Refused
) -> None:
    """Some views have no label; with all weight on the first teacher the second changes nothing."""
    student = save_classifier(tmp_path / "student", small_resnet(5))
    other = save_classifier(tmp_path / "other", small_resnet(9))
    second = dump(
        images_plan(other, images, tmp_path / "second", views=image_cache.manifest.views, sparsifier="dense", k=None)
    )
    usual: dict[str, Any] = {"student": str(student), "max_steps": 3, "alpha": 0.5, "seed": 1, "device": "cpu"}
    usual |= {"trainer": {"logging_steps": 1}, "objective": "forward_kl"}
    logs = {}
    for name, further in {
        "alone": {},
        "both": {"also": [second.path], "weights": "1,0"},
        "gold": {"also": [second.path], "weights": "gold"},
    }.items():
        train(TrainSettings(cache=image_cache.path, out=tmp_path / name, **usual, **further))
        summary = json.loads((tmp_path / name / "logitstore.json").read_text())
        logs[name] = [entry for entry in summary["log"] if "loss" in entry]
    for one, both, gold in zip(*logs.values(), strict=True):
        assert both["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert gold["loss"] == pytest.approx(0.5 * (gold["kl"] + gold["kl/2"] + gold["cross_entropy"]), rel=1e-4)
    unlike = dump(images_plan(other, images, tmp_path / "unlike", views=image_cache.manifest.views, seed=5))
    said = refused("train", image_cache.path, "--also", unlike.path, "--student", student, "--out", tmp_path / "no")
    assert "their views are made in other ways" in said


def test_views_that_were_added_are_recoded_and_merged_by_the_same_command(
    classifier: Path, images: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", views=1))
    recoding = RecodeSettings(cache=cache.path, out=tmp_path / "recoded", k=4)
    shutil.copytree(cache.path, tmp_path / "twin")
    merging = MergeSettings(caches=[cache.path, tmp_path / "twin"], out=tmp_path / "merged")
    for made in (recode(recoding), merge(merging)):
        assert (made.manifest.views, len(made)) == (1, 60)
    for grown in (cache.path, tmp_path / "twin"):
        add(AddSettings(cache=grown, views="1-2", device="cpu"))
    for made in (recode(recoding), merge(merging)):
        assert (made.manifest.views, len(made), made.complete) == (3, 180, True)
        assert verify(made.path) == []


@pytest.mark.parametrize(
    "changes", [rarely({"k": 4}), rarely({"layout": "archive"}), {"k": 6, "layout": "archive"}], ids=str
)
def test_a_recoded_cache_is_about_the_same_views(
    image_cache: Cache, classifier: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    recoded = recode(RecodeSettings(cache=image_cache.path, out=tmp_path / "recoded", **changes))
    assert recoded.complete
    assert verify(recoded.path) == []
    assert viewed(recoded) == viewed(image_cache)
    np.testing.assert_array_equal(recoded.nll(), image_cache.nll())
    assert recoded.sums.no_gold == image_cache.sums.no_gold == 6
    assert recoded.sums.gold_logprob == pytest.approx(image_cache.sums.gold_logprob, rel=1e-3)
    mine, theirs = given(recoded, batch_size=50), given(image_cache, batch_size=7)
    assert all(torch.equal(mine[number], theirs[number]) for number in range(180))
    plans = [
        EvaluateSettings(cache=each.path, student=str(classifier), device="cpu") for each in (recoded, image_cache)
    ]
    figures = [evaluate(plan) for plan in plans]
    assert figures[0].accuracy == figures[1].accuracy
    assert figures[0].kl == pytest.approx(figures[1].kl, abs=0.2)
    grown = add(AddSettings(cache=recoded.path, views="3", device="cpu")) if "k" not in changes else None
    assert grown is None or verify(grown.path) == []
