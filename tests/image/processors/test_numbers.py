"""The mean, the deviation and the channels that a model is shown: its own, for a teacher as for a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from logitstore.core.types import ModelRef
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.image.pictures import pictures_of
from logitstore.image.train import shown_to
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.images import images_plan, save_classifier, small_vit


@pytest.fixture(scope="module")
def plain(classifier: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One view of each image, as it is."""
    out = tmp_path_factory.mktemp("plain") / "cache"
    return dump(images_plan(classifier, images, out, augment=None, views=1, limit=12))


def shown_by(folder: Path, images: Path, key: str) -> Any:
    """float32[C, H, W]: what the processor in a folder makes of an image."""
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    return processor(images=Image.open(images / key), return_tensors="np")["pixel_values"][0]


@pytest.mark.parametrize(
    "changes",
    [
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.9, 0.8, 0.7]},
        {"do_normalize": False},
        {"do_rescale": False},
        {"image_processor_type": "MobileViTImageProcessor", "do_center_crop": False},
    ],
    ids=str,
)
def test_a_student_is_shown_what_its_saved_processor_makes(
    plain: Cache, images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    student = save_classifier(tmp_path / "student", small_vit(1), **changes)
    train(TrainSettings(cache=plain.path, student=str(student), out=tmp_path / "out", max_steps=1, device="cpu"))
    shown = shown_to(plain, ModelRef(name=str(tmp_path / "out")))
    view = plain[0].sample
    pixels_B3HW, _ = pictures_of(plain, shown=shown).batch([view])
    np.testing.assert_allclose(pixels_B3HW[0], shown_by(tmp_path / "out", images, view.name), rtol=1e-5, atol=1e-5)
    found = evaluate(EvaluateSettings(cache=plain.path, student=str(tmp_path / "out"), samples="all", device="cpu"))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "out")
    views = [sample.sample for sample in plain]
    inputs = torch.from_numpy(np.stack([shown_by(tmp_path / "out", images, view.name) for view in views])).float()
    logits_BC, labels_B = model(pixel_values=inputs).logits, torch.tensor([view.label for view in views])
    right = (logits_BC.argmax(-1) == labels_B)[labels_B >= 0].float().mean()
    assert found.accuracy == pytest.approx(float(right))


def test_a_model_of_one_channel_is_shown_grey(images: Path, tmp_path: Path) -> None:
    teacher = save_classifier(tmp_path / "grey", small_vit(2, num_channels=1), image_mean=[0.3], image_std=[0.6])
    cache = dump(images_plan(teacher, images, tmp_path / "cache", augment=None, views=1, limit=6))
    batch = next(iter(cache.loader(batch_size=6, shuffle=False)))
    assert batch.pixel_values.shape[1] == 1
    grey = Image.open(images / cache[0].sample.name).convert("L")
    expected = AutoImageProcessor.from_pretrained(teacher, backend="pil")(images=grey, return_tensors="np")
    assert np.abs(batch.pixel_values[0].numpy() - expected["pixel_values"][0]).max() * 0.6 * 255 < 2
    train(TrainSettings(cache=cache.path, student=str(teacher), out=tmp_path / "out", max_steps=1, device="cpu"))
    assert Cache(tmp_path / "cache").manifest.images[1].channels == "luma"


@pytest.mark.parametrize(("of_teacher", "of_student"), [(3, 1), (1, 3)])
def test_a_student_may_have_other_channels_than_its_teacher(
    images: Path, tmp_path: Path, of_teacher: int, of_student: int
) -> None:
    models = [
        save_classifier(tmp_path / name, small_vit(2, num_channels=channels), image_mean=0.3, image_std=0.6)
        for name, channels in (("teacher", of_teacher), ("student", of_student))
    ]
    cache = dump(images_plan(models[0], images, tmp_path / "cache", augment=None, views=1, limit=6))
    options = {"student": str(models[1]), "out": tmp_path / "out", "max_steps": 1, "holdout": 0, "device": "cpu"}
    train(TrainSettings(cache=cache.path, **options))
    shown = pictures_of(cache, shown=shown_to(cache, ModelRef(name=str(tmp_path / "out"))))
    pixels_B3HW, _ = shown.batch([cache[0].sample])
    assert pixels_B3HW.shape[1] == of_student


@pytest.mark.parametrize("mean", [None, [0.1, 0.2, 0.3]])
def test_a_run_that_began_with_the_teacher_s_numbers_does_not_go_on_with_others(
    plain: Cache, tmp_path: Path, mean: list[float] | None
) -> None:
    """None leaves the student the teacher's own."""
    student = save_classifier(tmp_path / "student", small_vit(1), **({} if mean is None else {"image_mean": mean}))
    usual = {"cache": plain.path, "student": str(student), "out": tmp_path / "out", "device": "cpu"}
    train(TrainSettings(**usual, max_steps=2, save_every=1))
    path = tmp_path / "out" / "logitstore.json"
    summary = json.loads(path.read_text())
    del summary["figures"], summary["arithmetic"]  # as a version before left it
    path.write_text(json.dumps(summary))
    resumed = TrainSettings(**usual, max_steps=2, save_every=1, resume=True)
    if mean is None:
        train(resumed)
        return
    with pytest.raises(BadInput, match="the mean and deviation of the teacher's image processor, and not its own"):
        train(resumed)
