"""Students are shown to the last bit what their teacher saw."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from torch import Tensor
from torch.nn.functional import avg_pool2d
from transformers import (
    ViTForImageClassification,
)

from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.image.pictures import pictures_of
from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.train.loader.batch import Batch
from logitstore.train.train import train
from tests.parts.images import SIZE, save_classifier, small_vit
from tests.parts.views import CASES, FULL
from tests.parts.vision import given, viewed, without_pilot

Seen = list[Tensor]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Every batch of images that a ViT is shown from now on, but for the one image by which a student is tried."""
    shown: Seen = []
    plain = ViTForImageClassification.forward

    def forward(self: Any, pixel_values: Tensor, **options: Any) -> Any:
        shown.append(pixel_values.detach().clone())
        return plain(self, pixel_values=pixel_values, **options)

    monkeypatch.setattr(ViTForImageClassification, "forward", forward)
    return shown


@pytest.mark.parametrize("case", CASES)
def test_a_student_is_shown_what_the_teacher_saw(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen, case: str
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", CASES[case]))
    saw_B3HW = torch.cat(seen)
    assert saw_B3HW.shape == (14, 3, SIZE, SIZE)
    for options in ({"batch_size": 4, "shuffle": False, "workers": 0}, {"batch_size": 5, "workers": 3, "seed": 2}):
        found = given(cache, **options)
        assert sorted(found) == list(range(14))
        for number, view_3HW in found.items():
            assert torch.equal(view_3HW, saw_B3HW[number]), (number, options)


def test_how_views_are_made_for_the_teacher_changes_nothing(classifier: Path, images: Path, tmp_path: Path) -> None:
    """The digest of a view tells what it is; the teacher's answers may differ in their last bits."""
    made = [
        dump(
            without_pilot(classifier, images, tmp_path / f"{workers}-{size}", FULL, workers=workers, batch_images=size)
        )
        for workers, size in ((1, 1), (2, 7), (5, 4))
    ]
    proofs = [[(view.content, view.digest) for view in viewed(cache)] for cache in made]
    assert proofs[0] == proofs[1] == proofs[2]
    assert len(set(proofs[0])) == 14


@pytest.mark.exhaustive  # of the views alone, test_proof.py says it
def test_another_process_on_another_kind_of_processor_shows_the_same(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", FULL))
    code = f"""
import numpy, torch, xxhash, logitstore
numpy.random.seed(1)
torch.manual_seed(2)
torch.set_default_dtype(torch.float64)
for batch in logitstore.open({str(cache.path)!r}).loader(batch_size=2, shuffle=False, workers=4):
    for view in batch.pixel_values:
        print(view.dtype, xxhash.xxh3_64_hexdigest(view.numpy().tobytes()))
"""
    plain = {"OMP_NUM_THREADS": "3", "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | plain)
    expected = [f"torch.float32 {xxhash.xxh3_64_hexdigest(view.numpy().tobytes())}" for view in torch.cat(seen)]
    assert done.stdout.splitlines() == expected, done.stderr


def test_the_images_and_the_cache_may_move_and_batches_be_taken_apart(
    classifier: Path, own_images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, own_images, tmp_path / "cache", FULL))
    moved_images = shutil.move(own_images, tmp_path / "elsewhere")
    moved = Cache(shutil.move(cache.path, tmp_path / "moved"))
    with pytest.raises(BadInput, match=r"--images .*images: no such file.*say with --images where they are now\.$"):
        moved.loader()
    loader = moved.loader(pictures=pictures_of(moved, moved_images), batch_size=14, shuffle=False)
    batch = next(iter(loader))
    again = Batch(batch.to("cpu").tensors())
    for found in (batch, again):
        assert found.pixel_values is not None
        assert torch.equal(found.pixel_values, torch.cat(seen))
        assert found.model_inputs().keys() == {"pixel_values"}
        assert found.input_ids is None


def test_every_epoch_of_a_training_shows_the_views_of_its_number(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", FULL))
    of_view = [Counter(hashes(rows)) for rows in torch.cat(seen).split(7)]
    seen.clear()
    options = {"epochs": 3, "batch_size": 4, "holdout": 0, "device": "cpu", "workers": 2}
    train(TrainSettings(cache=cache.path, student=str(classifier), out=tmp_path / "student", **options))
    rows = [rows for rows in seen if len(rows) > 1]
    assert [len(batch) for batch in rows] == [4, 3] * 3
    shown = [Counter(hashes(torch.cat(some))) for some in (rows[:2], rows[2:4], rows[4:])]
    assert shown == [of_view[0], of_view[1], of_view[0]]


def hashes(views_B3HW: Tensor) -> list[str]:
    return [xxhash.xxh3_64_hexdigest(view.numpy().tobytes()) for view in views_B3HW]


def test_a_student_of_another_size_sees_the_same_crops(
    classifier: Path, images: Path, tmp_path: Path, seen: Seen
) -> None:
    cache = dump(without_pilot(classifier, images, tmp_path / "cache", "crop:scale=0.5-1,flip,cutmix"))
    saw_B3HW = torch.cat(seen)
    twice = given(cache, pictures=pictures_of(cache, size=2 * SIZE))
    smaller_B3HW = torch.stack([avg_pool2d(twice[number], 2) for number in range(14)])
    apart_BB = (smaller_B3HW[:, None] - saw_B3HW[None]).abs().mean((2, 3, 4))
    assert apart_BB.argmin(1).tolist() == list(range(14))
    own_B = apart_BB.diag()
    assert own_B.max() < 0.5 * (apart_BB + torch.eye(14) * 9).min()
    seen.clear()
    student = save_classifier(tmp_path / "large", small_vit(3, image_size=2 * SIZE))
    options = {"holdout": 0, "device": "cpu"}
    train(TrainSettings(cache=cache.path, student=str(student), out=tmp_path / "student", **options))
    assert {tuple(batch.shape[1:]) for batch in seen} == {(3, 2 * SIZE, 2 * SIZE)}
    assert set(hashes(torch.cat([batch for batch in seen if len(batch) > 1]))) <= set(
        hashes(torch.stack([*twice.values()]))
    )
