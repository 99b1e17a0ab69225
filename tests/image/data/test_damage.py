"""Images that cannot be used are named all at once, before the teacher is loaded, or left out."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from logitstore.core.progress import Step
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, StorageError
from logitstore.image.data.damage import damaged
from logitstore.image.data.images import ImageSpec, open_images
from logitstore.store.checks.verify import verify
from tests.parts.images import digits, images_plan


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """Twenty images, four of which cannot be used: cut short, empty, a link to nothing, 32-bit pixels."""
    data = digits(tmp_path / "data", range(20))
    paths = sorted(data.rglob("*.png"))
    os.truncate(paths[3], paths[3].stat().st_size // 2)
    paths[7].write_bytes(b"")
    paths[11].unlink()
    paths[11].symlink_to(tmp_path / "nowhere.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(paths[15].with_suffix(".tiff"))
    paths[15].unlink()
    return data


BAD = {3, 7, 11, 15}


def test_each_image_that_cannot_be_used_is_found(spoilt: Path) -> None:
    images = open_images(ImageSpec(source=str(spoilt)))
    found = damaged(images, range(len(images)), 2)
    assert set(found) == BAD
    assert all(f"image '{images.key(place)}'" in reason for place, reason in found.items())
    assert set(damaged(images, [3, 4], 1)) == {3}
    rest = images.without(found)
    assert rest.keys == [key for place, key in enumerate(images.keys) if place not in BAD]
    assert rest.label_names == images.label_names
    assert rest.fingerprint != images.fingerprint
    assert not damaged(rest, range(len(rest)), 1)


def test_all_are_named_before_the_teacher_is_loaded(spoilt: Path, classifier: Path, tmp_path: Path) -> None:
    names = [open_images(ImageSpec(source=str(spoilt))).key(place) for place in sorted(BAD)]
    stages: list[str] = []
    with pytest.raises(BadInput, match="4 of 20 images cannot be used") as told:
        dump(images_plan(classifier, spoilt, tmp_path / "cache"), lambda step: stages.append(step.stage))
    assert "load the teacher" not in stages
    assert all(name in str(told.value) for name in names)
    assert "--skip-damaged" in str(told.value)
    assert not (tmp_path / "cache" / "cache.json").exists()


def test_damaged_images_can_be_left_out(spoilt: Path, classifier: Path, tmp_path: Path) -> None:
    steps: list[Step] = []
    plan = images_plan(classifier, spoilt, tmp_path / "cache", skip_damaged=True, views=1)
    cache = dump(plan, steps.append)
    data, _ = cache.manifest.images
    assert (cache.manifest.samples, len(data.skipped)) == (16, 4)
    assert [step for step in steps if step.stage == "left out" and step.note.startswith("image '")]
    assert verify(cache.path) == []
    assert sum(len(batch.samples) for batch in cache.loader()) == 16


def test_a_dump_goes_on_when_the_whole_file_is_back(classifier: Path, tmp_path: Path) -> None:
    data = digits(tmp_path / "data", range(10))
    last = sorted(data.rglob("*.png"))[-1]
    content, plan = last.read_bytes(), images_plan(classifier, data, tmp_path / "cache", views=1, samples_per_part=4)
    dump(plan.model_copy(update={"parts": "0-1"}))
    last.write_bytes(content[: len(content) // 2])
    assert len(dump(plan.model_copy(update={"parts": "0-1"}))) == 8
    with pytest.raises(BadInput, match=r"1 of 10 images cannot be used: .*Put whole files in their places"):
        dump(plan)
    last.write_bytes(content)
    assert dump(plan).complete


def test_a_folder_that_is_a_link_is_said(tmp_path: Path) -> None:
    data = digits(tmp_path / "data", range(8))
    (data / "again").symlink_to(next(each for each in data.iterdir() if each.is_dir()), target_is_directory=True)
    (data / "outside").symlink_to(digits(tmp_path / "more", range(2), labelled=False), target_is_directory=True)
    stages: list[str] = []
    open_images(ImageSpec(source=str(data)), lambda step: stages.append(step.stage))
    again, outside = [stage for stage in stages if "is a link to" in stage]
    assert again.startswith("the folder 'again'")
    assert again.endswith("its images are there twice")
    assert outside.startswith("the folder 'outside'")
    assert "twice" not in outside


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.ENOMEM])
def test_what_the_system_cannot_read_now_is_not_left_out(
    spoilt: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    images, usual = open_images(ImageSpec(source=str(spoilt))), Path.open

    def refusing(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.suffix == ".png":
            raise OSError(number, os.strerror(number), str(path))
        return usual(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refusing)
    with pytest.raises(StorageError, match=errno.errorcode[number]):
        damaged(images, range(20), 1)


def test_files_that_are_no_images_by_their_names_are_counted(tmp_path: Path) -> None:
    data = digits(tmp_path / "data", range(4))
    stages: list[str] = []
    spec = ImageSpec(source=str(data))
    assert len(open_images(spec, lambda step: stages.append(step.stage))) == 4
    assert not any("passed over" in stage for stage in stages)
    (min(data.iterdir()) / "00.heic").write_bytes(b"of a telephone")
    (data / "metadata.csv").write_text("file_name,label\n")
    assert len(open_images(spec, lambda step: stages.append(step.stage))) == 4
    said = "2 files are no images by their names and are passed over: 'metadata.csv', ..."
    assert [stage for stage in stages if "passed over" in stage] == [said]
