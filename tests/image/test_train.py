"""Students of images learn from views, by recipe and by command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
)

from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, ModelError
from logitstore.settings.dump import AddSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.files import tree
from tests.parts.images import CLASSES, digits, images_plan, save_classifier, small_resnet, taught
from tests.parts.marks import rarely
from tests.parts.vision import Told, small_teacher

TRAINED, TESTED = range(100), range(200, 300)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher that knows digits, none of those that the tests use among what it learned from."""
    return save_classifier(tmp_path_factory.mktemp("knowing") / "teacher", taught(small_resnet(), range(600, 1400)))


@pytest.fixture(scope="module")
def plain_views(tmp_path_factory: pytest.TempPathFactory, knowing: Path) -> Path:
    """What it says of 100 other digits as they are."""
    folder = tmp_path_factory.mktemp("test")
    data = digits(folder / "digits", TESTED)
    return dump(images_plan(knowing, data, folder / "cache", views=1, augment=None, k=10)).path


@pytest.mark.slow
def test_a_student_learns_from_views_and_from_more_of_them_once_the_teacher_is_back(
    told: Told, refused: Refused, knowing: Path, plain_views: Path, tmp_path: Path
) -> None:
    teacher = Path(shutil.copytree(knowing, tmp_path / "teacher"))
    data, cache = digits(tmp_path / "digits", TRAINED), tmp_path / "cache"
    student = save_classifier(tmp_path / "student", small_resnet(5, hidden_sizes=[8, 16], embedding_size=8))
    dumped = ["dump", "--task", "image-classification", "--teacher", teacher, "--data", data, "--out", cache]
    dumped += ["--augment", "crop:scale=0.5-1", "--dtype", "float32", "--device", "cpu", "--samples-per-part", 64]
    assert "1,000 rows of 1,000 samples" in told(*dumped, "--views", 10)
    shutil.move(teacher, tmp_path / "away")

    def trained(source: Path, out: Path, *options: object) -> dict[str, float]:
        said = ["--learning-rate", 1e-2, "--batch-size", 16, "--device", "cpu", "--holdout", 0.1, *options]
        assert f"saved to {out}" in told("train", cache, "--student", source, "--out", out, *said)
        return judged(out)

    def judged(who: Path) -> dict[str, float]:
        found: dict[str, float] = json.loads(
            told("evaluate", plain_views, "--student", who, "--samples", "all", "--device", "cpu", "--json")
        )
        assert found["rows"] == 100
        return found

    before, after = judged(student), trained(student, tmp_path / "first", "--epochs", 10)
    assert after["kl"] < 0.6 * before["kl"]
    assert after["accuracy"] > before["accuracy"] + 0.2
    assert after["agreement"] > before["agreement"] + 0.2
    assert after["accuracy"] <= after["top5_accuracy"] <= 1
    assert 0 < after["calibration_error"] < 1
    assert before["teacher_cross_entropy"] == after["teacher_cross_entropy"] < after["cross_entropy"]

    more = ["add", cache, "--views", "10-14", "--device", "cpu"]
    assert f"{teacher}: there is no such folder" in refused(*more)
    assert Cache(cache).manifest.views == 10
    assert "15 views of 100 images, complete" in told(*more, "--teacher", tmp_path / "away")
    longer = trained(tmp_path / "first", tmp_path / "second", "--epochs", 5, "--views", "10-14")
    assert longer["kl"] < after["kl"]
    assert trained(student, tmp_path / "third", "--epochs", 3, "--views-per-step", 2)["kl"] < 0.95 * before["kl"]
    assert trained(student, tmp_path / "fourth", "--epochs", 2, "--alpha", 0.5)["kl"] < before["kl"]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits that all have a label."""
    return digits(tmp_path_factory.mktemp("labelled") / "digits", range(40))


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, classifier: Path, labelled: Path) -> Path:
    """Four views with what the output layer takes."""
    folder = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(images_plan(classifier, labelled, folder, views=4, hidden="final")).path


@pytest.mark.parametrize(
    "recipe", ["tinyvit", "fkd", "dist", *map(rarely, ("ssld", "one_for_all", "dkd", "kd_plus_plus"))]
)
def test_recipes_of_images_train_on_views(recipe: str, tapped: Path, tmp_path: Path) -> None:
    student = save_classifier(tmp_path / "student", small_resnet(5, hidden_sizes=[8, 16], embedding_size=8))
    settings: dict[str, Any] = {"cache": tapped, "student": str(student), "out": tmp_path / "out", "device": "cpu"}
    settings |= {"max_steps": 20, "batch_size": 8, "learning_rate": 1e-2, "trainer": {"logging_steps": 1}}
    train(load(TrainSettings, "train", None, settings, named=recipe))
    log = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert sum(losses[-5:]) < sum(losses[:5])


def test_features_that_are_added_are_those_of_a_dump_and_what_the_output_layer_takes(
    tapped: Path, classifier: Path, labelled: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, labelled, tmp_path / "cache", views=4))
    add(AddSettings(cache=cache.path, hidden="final", device="cpu"))
    for folder in ("taps", "parts", "shared"):  # beside them lie the means that ND loss gathered
        assert tree(cache.path / folder) == tree(tapped / folder)
    loader = Cache(tapped).loader(batch_size=8, shuffle=False, taps=["final"], workers=0)
    batch = next(iter(loader))
    model = AutoModelForImageClassification.from_pretrained(classifier).eval()
    with torch.no_grad():
        logits_BC = model.classifier(loader.features(batch)["final"])
        torch.testing.assert_close(logits_BC, model(batch.pixel_values).logits, rtol=2e-2, atol=2e-2)


def test_preset_exact_keeps_what_the_teacher_says(images: Path, classifier: Path, tmp_path: Path) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", preset="exact", k=None, limit=20))
    assert cache.fidelity.rows > 0
    assert cache.fidelity.sums["kl_t1"][0] / cache.fidelity.rows < 1e-3
    assert cache.manifest.teacher.width == 32


@pytest.mark.parametrize("name", ["swin", rarely("convnext"), rarely("resnet")])
def test_students_need_not_be_stacks_of_layers(image_cache: Cache, tmp_path: Path, name: str) -> None:
    student = save_classifier(tmp_path / "student", small_teacher(name))
    options: dict[str, Any] = {"cache": image_cache.path, "max_steps": 2, "device": "cpu"}
    train(TrainSettings(student=str(student), out=tmp_path / "out", **options))
    for dtype in ("float32", "bfloat16"):
        assert evaluate(
            EvaluateSettings(cache=image_cache.path, student=str(tmp_path / "out"), dtype=dtype, device="cpu")
        ).rows
    with pytest.raises((BadInput, ModelError), match="layers"):
        train(TrainSettings(student=str(student), out=tmp_path / "no", copy_layers="1", **options))


@pytest.mark.parametrize("name", [rarely("swin"), "convnext", rarely("resnet")])
def test_a_fresh_student_is_shaped_like_any_teacher(images: Path, tmp_path: Path, name: str) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    cache = dump(images_plan(teacher, images, tmp_path / "cache", limit=20))
    train(TrainSettings(cache=cache.path, out=tmp_path / "out", max_steps=1, device="cpu"))
    fresh = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    assert type(fresh) is type(small_teacher(name))
    assert fresh.config.id2label == CLASSES["id2label"]
    with pytest.raises(BadInput, match="'num_hidden_layers'"):
        train(TrainSettings(cache=cache.path, out=tmp_path / "no", layers=1, device="cpu"))


def test_some_layers_of_the_teacher_make_a_student(image_cache: Cache, classifier: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cache": image_cache.path, "max_steps": 1, "device": "cpu"}
    train(TrainSettings(student=str(classifier), copy_layers="1", out=tmp_path / "copied", **options))
    train(TrainSettings(layers=1, out=tmp_path / "fresh", **options))
    for name in ("copied", "fresh"):
        assert json.loads((tmp_path / name / "config.json").read_text())["num_hidden_layers"] == 1
