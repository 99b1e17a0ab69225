"""What a dump or a comparison of images refuses, and how early."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.store.cache import Cache
from tests.parts.commands import Refused
from tests.parts.images import digits, images_plan
from tests.parts.vision import Told


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory, classifier: Path) -> Path:
    """The classifier without its weights: who loads it fails."""
    folder = tmp_path_factory.mktemp("hollow")
    shutil.copytree(classifier, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def stages_until_refused(teacher: Path, data: Path, out: Path, said: str, **changes: Any) -> set[str]:
    """Refuse a dump; return the stages that it came to."""
    stages: set[str] = set()
    with pytest.raises(BadInput, match=said):
        dump(images_plan(teacher, data, out, **changes), lambda step: stages.add(step.stage))
    assert not (out / "cache.json").exists()
    return stages


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"augment": "zoom"}, "zoom"),
        ({"augment": "crop:scale=3-4"}, "crop"),
        ({"augment": "mixup,crop"}, "crop"),
        ({"k": 11}, "11"),
        ({"preset": "exact"}, "-k 8: it changes nothing"),
        ({"top_p": 0.5}, "top-p"),
        ({"hidden": "3"}, "--hidden 3: the teacher has 0 to 2; 3 is not there"),
        ({"classes": "a,b"}, "--classes and --prompt are for teachers that compare images with texts"),
        ({"prompt": "{}"}, "--classes and --prompt are for teachers that compare images with texts"),
        ({"max_length": 64}, "--max-length: it means nothing to"),
    ],
    ids=str,
)
def test_options_are_checked_before_the_data_are_looked_for(
    hollow: Path, tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    assert not stages_until_refused(hollow, tmp_path / "nowhere", tmp_path / "out", said, **options)


def test_names_of_data_are_checked_before_pixels_and_these_before_the_teacher_is_loaded(
    hollow: Path, tmp_path: Path
) -> None:
    data = digits(tmp_path / "data", range(6))
    spoilt = sorted(data.rglob("*.png"))[2]
    os.truncate(spoilt, spoilt.stat().st_size // 2)
    out = tmp_path / "out"
    assert "check the images" in stages_until_refused(hollow, data, out, "1 of 6 images cannot be used", limit=None)
    (data / "eleven").mkdir()
    shutil.copy(sorted(data.rglob("*.png"))[0], data / "eleven" / "0011.png")
    for changes in ({}, {"skip_damaged": True}):
        stages = stages_until_refused(hollow, data, out, "the class 'eleven'", limit=None, **changes)
        assert stages == {"images"}


def test_missing_images_are_named_before_a_model_is_loaded(
    hollow: Path, image_cache: Cache, tmp_path: Path, refused: Refused, stopped: Told
) -> None:
    where = ["--images", tmp_path / "nowhere"]
    assert "--images" in stopped("verify", image_cache.path, "--against-teacher", hollow, *where)
    assert "--images" in refused("evaluate", image_cache.path, "--student", hollow, *where)
    assert "--images" in refused("train", image_cache.path, "--student", hollow, "--out", tmp_path / "out", *where)


def test_a_teacher_of_texts_is_refused_for_a_cache_of_images_and_the_other_way_round(
    image_cache: Cache, cache: Cache, classifier: Path, teacher: Path, stopped: Told
) -> None:
    line = stopped("verify", image_cache.path, "--against-teacher", teacher)
    assert f"{teacher}: it is not a teacher of the kind that {image_cache.path} was made with." in line
    assert str(classifier) in stopped("verify", cache.path, "--against-teacher", classifier)
