"""A batch of images has the rows of its views."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.image.stored import ViewsFile, labels_of
from logitstore.image.view import View
from logitstore.store.cache import Cache
from logitstore.train.sidecars import sidecar
from tests.parts.images import images_plan
from tests.parts.marks import rarely


@pytest.mark.parametrize("world", [1, 3])
@pytest.mark.parametrize("batches_together", [1, 2, 5, 1000])
def test_a_batch_has_the_answers_of_its_views_however_many_are_gathered_with_it(
    many_views: Cache, world: int, batches_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4
    monkeypatch.setattr(
        "logitstore.image.batches.BYTES_TOGETHER", batches_together * size * many_views.manifest.bytes_per_row
    )
    for rank in range(world):
        loader = many_views.loader(batch_size=size, rank=rank, world_size=world, workers=3, ahead=5, seed=7)
        batches = [*loader, *loader, loader.at(0, 3), loader.at(2, len(loader) - 1), loader.at(0, 0)]
        for batch in batches:
            located = [many_views.locate(number) for number in batch.samples.tolist() if number >= 0]
            assert batch.gold[: len(located)].tolist() == [
                int(part.samples.labels_S[index]) for part, index in located if isinstance(part.samples, ViewsFile)
            ]
            for name in many_views.manifest.fields:
                expected = [part.fields[name][index].tobytes() for part, index in located]
                assert [row.tobytes() for row in batch.answer[name].numpy()[: len(expected)]] == expected
        assert len(batches[0].samples) == size


@pytest.mark.parametrize(
    "changes", [{"preset": "scores", "k": None}, rarely({"layout": "archive"}), rarely({"augment": "mixup"})]
)
def test_answers_are_had_without_images_from_every_kind_of_cache(
    classifier: Path, own_images: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    cache = dump(images_plan(classifier, own_images, tmp_path / "cache", samples_per_part=7, **changes))
    expected = [(each.sample.label, each.answer) for each in cache if isinstance(each.sample, View)]
    shutil.rmtree(own_images)
    loader = cache.loader(batch_size=9, with_images=False, workers=2)
    count = 0
    for batch in loader:
        assert batch.pixel_values is None
        with pytest.raises(BadInput, match=r"with_images=False: it has nothing to show to a model\.$"):
            batch.model_inputs()
        for row, number in enumerate(batch.samples.tolist()):
            label, answer = expected[number]
            assert int(batch.gold[row]) == label
            if cache.manifest.codec.layout == "mapped":
                for name in cache.manifest.fields:
                    assert batch.answer[name][row].numpy().tobytes() == np.asarray(answer[name]).tobytes()
            count += 1
        if cache.manifest.sparsifier.keeps_rows:
            assert len(loader.targets(batch)) == len(batch.gold)
    assert count == len(cache) == 180


def test_means_of_features_need_no_images_and_leave_out_those_without_a_label(
    classifier: Path, own_images: Path, tmp_path: Path
) -> None:
    cache = dump(images_plan(classifier, own_images, tmp_path / "cache", hidden="final", tap_codec="float32"))
    shutil.rmtree(own_images)
    tap = cache.taps["final"]
    rows_ND = np.concatenate([tap.part(number)["values"] for number in cache.part_numbers])
    labels_N = labels_of(cache, np.arange(len(cache)))
    found = sidecar(cache, "means", "final")
    np.testing.assert_allclose(found["mean"], rows_ND.mean(0), rtol=1e-4, atol=1e-5)
    assert found["count"].tolist() == [int((labels_N == number).sum()) for number in range(10)]
    assert int(found["count"].sum()) == 180 - 6
    for number in range(10):
        np.testing.assert_allclose(found["by_gold"][number], rows_ND[labels_N == number].mean(0), rtol=2e-3, atol=2e-3)
