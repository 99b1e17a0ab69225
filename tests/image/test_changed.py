"""Images, libraries or plans that are no longer as they were are named."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.format.manifest import MANIFEST_NAME, Manifest
from logitstore.format.part_record import RECORD_NAME, PartRecord
from logitstore.format.sealed import seal, unseal
from logitstore.settings.dump import AddSettings
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.store import layout
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from logitstore.train.evaluate import evaluate
from tests.parts.commands import Refused, flags_of
from tests.parts.files import tree
from tests.parts.images import images_plan
from tests.parts.vision import LAST, Told, without_pilot


def readers(cache: Path, teacher: Path, student: Path, out: Path, *options: object) -> dict[str, list[object]]:
    """Every command that makes views again, of all images."""
    return {
        "train": ["train", cache, "--student", student, "--out", out, "--holdout", 0, "--device", "cpu", *options],
        "evaluate": ["evaluate", cache, "--student", student, "--samples", "all", "--device", "cpu", *options],
        "add": ["add", cache, "--views", "3", "--teacher", teacher, "--device", "cpu", *options],
        "verify": ["verify", cache, "--against-teacher", teacher, "--share", "1", "--device", "cpu", *options],
    }


READERS = ["train", "evaluate", "add", "verify"]


def rewritten(cache: Path, **changes: Any) -> None:
    """Change how a cache says its views are made, and have its parts say that they are of that plan."""
    manifest = unseal(Manifest, cache / MANIFEST_NAME)
    assert manifest.view is not None
    changed = manifest.model_copy(update={"view": manifest.view.model_copy(update=changes)})
    (cache / MANIFEST_NAME).write_bytes(seal(changed))
    for part in layout.committed_parts(cache):
        record = layout.part_folder(cache, part) / RECORD_NAME
        record.write_bytes(seal(unseal(PartRecord, record).model_copy(update={"plan": changed.identity})))


@pytest.mark.parametrize("reader", ["train", "evaluate", "verify"])
def test_another_seed_in_the_plan_is_noticed_with_the_first_view(
    own_views: Path, classifier: Path, tmp_path: Path, stopped: Told, reader: str
) -> None:
    rewritten(own_views, seed=1)
    assert verify(own_views) == []
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out")[reader])
    assert re.match(
        r"error: image '\S+\.png', view 0: made again, it is not what the teacher saw\. Is this the ", line
    ), line


def test_another_seed_of_mixed_views_names_the_partner_too(
    classifier: Path, images: Path, tmp_path: Path, stopped: Told
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", "crop,mixup")).path
    rewritten(cache, seed=1)
    line = stopped(*readers(cache, classifier, classifier, tmp_path / "out")["evaluate"])
    assert re.search(r"not what the teacher saw, alone or in its partner '\S+\.png'\.", line), line


@pytest.mark.parametrize("reader", READERS)
def test_another_version_of_a_library_is_named_with_the_way_out(
    own_views: Path, classifier: Path, tmp_path: Path, stopped: Told, reader: str
) -> None:
    rewritten(own_views, versions={"torch": torch.__version__.partition("+")[0], "pillow": "9.0.1"})
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out")[reader])
    assert re.search(r"other libraries: pillow 9\.0\.1 there, \S+ here\. .*: pip install pillow==9\.0\.1$", line), line


def test_a_dump_is_not_gone_on_with_by_other_libraries(
    own_views: Path, classifier: Path, images: Path, refused: Refused
) -> None:
    rewritten(own_views, versions={"torch": torch.__version__.partition("+")[0], "pillow": "9.0.1"})
    shutil.rmtree(own_views / "parts" / "00004")
    assert "view.versions.pillow = 9.0.1" in refused("dump", *flags_of(images_plan(classifier, images, own_views)))


def other_picture(images: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(images / LAST)


def cut_short(images: Path) -> None:
    os.truncate(images / LAST, (images / LAST).stat().st_size - 20)


def renamed_folder(images: Path) -> None:
    (images / "zero").rename(images / "null")


def renamed(images: Path) -> None:
    (images / LAST).rename(images / "zero" / "last.png")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another picture": (other_picture, f"image '{LAST}': its file is another one than the teacher saw. "),
    "cut short": (cut_short, f"image '{LAST}': its file is another one than the teacher saw. "),
    "missing": (lambda images: (images / LAST).unlink(), f"image '{LAST}' of "),
    "renamed": (renamed, f"image '{LAST}' of "),
    "renamed folder": (renamed_folder, "image 'zero/0000.png' of "),
    "none left": (shutil.rmtree, ": no such file."),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("fault", FAULTS)
def test_images_that_are_not_what_they_were_are_named(
    own_views: Path, own_images: Path, classifier: Path, tmp_path: Path, stopped: Told, fault: str, reader: str
) -> None:
    spoil, expected = FAULTS[fault]
    spoil(own_images)
    line = stopped(*readers(own_views, classifier, classifier, tmp_path / "out", "--images", own_images)[reader])
    assert expected in line
    assert "--images" in line or "Bring the old file back" in line


def test_more_images_beside_those_of_a_cache_change_nothing(
    own_views: Path, image_cache: Cache, own_images: Path, classifier: Path
) -> None:
    for name in ("eight/000.png", "zzz.png", "between/1.png"):
        (own_images / name).parent.mkdir(exist_ok=True)
        shutil.copy(own_images / LAST, own_images / name)
    plan = EvaluateSettings(cache=own_views, student=str(classifier), samples="all", device="cpu")
    here = plan.model_copy(update={"images": str(own_images)})
    assert evaluate(here) == evaluate(plan)
    grown = add(AddSettings(cache=own_views, views="3", images=str(own_images), device="cpu"))
    assert len(grown) == 4 * len(image_cache) // 3
    for old, new in zip(image_cache, grown, strict=False):
        assert old.sample == new.sample


def test_a_dump_is_not_gone_on_with_over_images_that_changed_and_goes_on_when_they_are_back(
    classifier: Path, own_images: Path, images: Path, image_cache: Cache, tmp_path: Path, stopped: Told
) -> None:
    plan = images_plan(classifier, own_images, tmp_path / "cache")
    dump(plan.model_copy(update={"parts": "1-2,6"}))
    other_picture(own_images)
    assert f"image '{LAST}': its file is another one than the teacher saw" in stopped("dump", *flags_of(plan))
    assert verify(plan.out) == []
    shutil.copy(images / LAST, own_images / LAST)
    assert dump(plan).complete
    there, expected = tree(plan.out), tree(image_cache.path)
    assert there.pop(MANIFEST_NAME) != expected.pop(MANIFEST_NAME)  # which names the folder
    assert there == expected


def test_images_added_to_the_data_make_it_another_dump(
    own_views: Path, own_images: Path, classifier: Path, refused: Refused
) -> None:
    shutil.copy(own_images / LAST, own_images / "zero" / "more.png")
    shutil.rmtree(own_views / "parts" / "00004")
    line = refused("dump", *flags_of(images_plan(classifier, own_images, own_views)))
    assert "the cache there has data.fingerprint = " in line


def test_a_resumed_dump_needs_the_same_images_and_options(
    own_views: Path, classifier: Path, images: Path, refused: Refused
) -> None:
    for name, value, said in (
        ("seed", 1, "view.seed = 0, this command asks for 1"),
        ("image_size", 12, "view.size = [16, 16], this command asks for [12, 12]"),
        ("limit", 20, "data.fingerprint = "),
        ("k", 7, "sparsifier.k = 8, this command asks for 7"),
        ("batch_images", 9, "batch_tokens = 8, this command asks for 9"),
    ):
        plan = images_plan(classifier, images, own_views, **{name: value})
        assert said in refused("dump", *flags_of(plan))
