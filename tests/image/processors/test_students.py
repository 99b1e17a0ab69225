"""Image processors of students and teachers, and the sizes they ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    AutoModelForImageClassification,
    ViTForImageClassification,
)

from logitstore.dump.dump import dump
from logitstore.image.processors.described import edge_of, resized
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.evaluate import evaluate
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.images import (
    PROCESSOR,
    SIZE,
    WORDS,
    images_plan,
    save_classifier,
    save_processor,
    small_resnet,
    small_vit,
)
from tests.parts.vision import Told


@pytest.fixture(scope="session")
def larger_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student with a network of another kind than the teacher's."""
    return save_classifier(tmp_path_factory.mktemp("resnet"), small_resnet(1))


def test_the_student_is_saved_with_names_of_classes_and_an_image_processor(
    image_cache: Cache, classifier: Path, tmp_path: Path
) -> None:
    plain = save_classifier(
        tmp_path / "plain", small_vit(1, id2label={n: f"LABEL_{n}" for n in range(10)}, label2id={})
    )
    own = save_classifier(tmp_path / "own", small_vit(1), image_mean=[0.1, 0.2, 0.3])
    (plain / "preprocessor_config.json").unlink()
    options = {"max_steps": 1, "holdout": 0, "device": "cpu"}
    train(TrainSettings(cache=image_cache.path, student=[str(plain), str(own)], out=tmp_path / "out", **options))
    for name, source in (("plain", classifier), ("own", own)):
        saved = tmp_path / "out" / name
        assert json.loads((saved / "config.json").read_text())["id2label"] == {str(n): WORDS[n] for n in range(10)}
        found, expected = (json.loads((each / "preprocessor_config.json").read_text()) for each in (saved, source))
        assert found == expected
        assert isinstance(AutoModelForImageClassification.from_pretrained(saved), ViTForImageClassification)


def test_a_student_of_another_size_is_saved_with_it_and_judged_at_it(
    image_cache: Cache, larger_student: Path, tmp_path: Path
) -> None:
    options = {"max_steps": 1, "holdout": 0, "device": "cpu", "image_size": 2 * SIZE}
    train(TrainSettings(cache=image_cache.path, student=str(larger_student), out=tmp_path / "out", **options))
    saved = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    own = json.loads((larger_student / "preprocessor_config.json").read_text())
    assert saved == own | {"size": {"height": 2 * SIZE, "width": 2 * SIZE}}
    shown = []
    for size in (None, 2 * SIZE, SIZE):
        plan = EvaluateSettings(cache=image_cache.path, student=str(tmp_path / "out"), samples="all", image_size=size)
        shown.append(evaluate(plan).cross_entropy)
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize(
    ("kind", "said", "resized_to"),
    [
        ("ViTImageProcessor", {"size": {"height": 16, "width": 16}}, {"size": {"height": 32, "width": 32}}),
        ("ViTImageProcessor", {"size": 16}, {"size": 32}),
        (
            "CLIPImageProcessor",
            {"size": {"shortest_edge": 20}, "do_center_crop": True, "crop_size": {"height": 16, "width": 16}},
            {"size": {"shortest_edge": 40}, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        ),
        (
            "ConvNextImageProcessor",
            {"size": {"shortest_edge": 16}, "crop_pct": 0.8},
            {"size": {"shortest_edge": 32}, "crop_pct": 0.8},
        ),
    ],
)
def test_a_processor_for_another_size_keeps_its_framing(
    kind: str, said: dict[str, Any], resized_to: dict[str, Any]
) -> None:
    said = PROCESSOR | {"image_processor_type": kind} | said
    assert edge_of(said, "it") == 16
    found = said | resized(said, "it", 32)
    assert found == said | resized_to
    assert edge_of(found, "it") == 32


def test_a_student_with_a_broken_image_processor_is_refused_before_it_is_trained(
    image_cache: Cache, larger_student: Path, tmp_path: Path, refused: Refused
) -> None:
    broken = Path(shutil.copytree(larger_student, tmp_path / "broken"))
    (broken / "preprocessor_config.json").write_text("{")
    for more in ((), ("--image-size", 20)):
        line = refused("train", image_cache.path, "--student", broken, "--out", tmp_path / "out", *more)
        assert line.startswith(f"error: {broken}: no image processor is saved with it (")


@pytest.mark.parametrize("size", [1, 8, 24, 512])
def test_a_size_that_a_model_cannot_take_is_named(
    refused_image_dump: Told, stopped: Told, image_cache: Cache, classifier: Path, tmp_path: Path, size: int
) -> None:
    expected = f"it cannot take images of {size} x {size}: "
    assert expected in refused_image_dump(image_size=size, limit=1)
    student = ["--student", classifier, "--image-size", size, "--device", "cpu", "--batch-size", 1]
    assert expected in stopped("train", image_cache.path, *student, "--out", tmp_path / "student")
    assert expected in stopped("evaluate", image_cache.path, *student)


def test_a_model_of_any_size_takes_tiny_images(images: Path, larger_student: Path, tmp_path: Path) -> None:
    for size in (1, 7, 33):
        cache = dump(images_plan(larger_student, images, tmp_path / str(size), image_size=size, limit=4, views=1))
        assert next(iter(cache.loader())).pixel_values.shape == (4, 3, size, size)
        assert (
            evaluate(EvaluateSettings(cache=cache.path, student=str(larger_student), samples="all", device="cpu")).rows
            == 4
        )


def test_a_teacher_without_an_image_processor_is_named(
    refused_image_dump: Told, classifier: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(classifier, bare, ignore=shutil.ignore_patterns("preprocessor*"))
    line = refused_image_dump(teacher=bare)
    assert f"{bare}: no image processor is saved with it" in line
    assert "save_pretrained(folder)" in line
    assert "nobody/such-a-teacher: there is no such folder" in refused_image_dump(teacher="nobody/such-a-teacher")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": {"height": 5000, "width": 5000}}, "size.0: Input should be less than or equal to 4096"),
        ({"size": {"height": 0, "width": 16}}, "squash:height=0: must be a whole number from 1 to 8192"),
        ({"size": None}, "names no size that views can have. Mend its preprocessor_config.json."),
        ({"image_mean": [0.5]}, "mean.1: Field required"),
        ({"image_std": [0, 0, 0]}, "std.0: Input should be greater"),
        ({"image_mean": None}, "names no image_mean. Save it anew"),
        ({"resample": None}, "names no resample. Save it anew"),
        ({"resample": 6}, "resizes in Pillow's way 6; known are 0 to 5."),
        ({"resample": "x"}, "no views can be made as its image processor says"),
        (
            {"image_processor_type": "NoImageProcessor"},
            "transformers cannot build its image processor (NoImageProcessor)",
        ),
        (
            {"image_processor_type": "DonutImageProcessor"},
            "views cannot be what its image processor, DonutImageProcessorPil",
        ),
    ],
    ids=str,
)
def test_an_image_processor_of_another_kind_is_refused(
    refused_image_dump: Told, classifier: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    teacher = Path(shutil.copytree(classifier, tmp_path / "teacher"))
    save_processor(teacher, **changes)
    line = refused_image_dump(teacher=teacher)
    assert str(teacher) in line
    assert said in line
