"""Training on selected samples, and their weights."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import logitstore
from logitstore.core.order import held_out
from logitstore.core.progress import no_progress
from logitstore.core.types import ModelRef
from logitstore.errors import BadInput
from logitstore.settings.train import TrainSettings
from logitstore.store.selection import Selection, read_selection, write_selection
from logitstore.text.train import TextTraining
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.task import Place
from logitstore.train.train import train
from tests.parts.marks import rarely
from tests.parts.selections import selection_of, training
from tests.parts.training import curve, trainer_of


def samples_read(settings: TrainSettings, cache: logitstore.Cache, selection: Selection | None) -> Counter[int]:
    """The samples of one epoch of the loader that `train` makes."""
    student = ModelRef.parse(str(settings.student))
    data = TextTraining().open(settings, cache, student, selection, [], Place(workers=0), no_progress)
    return Counter(int(sample) for batch in data.train for sample in batch.samples)


@pytest.mark.parametrize(
    "options",
    [{}, {"packed": True}, {"window_parts": 1}, {"curriculum": "easy-first"}, {"curriculum": "hard-first"}],
)
def test_exactly_the_chosen_samples_are_read_but_for_those_held_out(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    selection = read_selection(half)
    kept_out = held_out(cache.documents(), 0.2)
    expected = [int(s) for s in selection.samples_M if not kept_out[s]]
    found = samples_read(training(cache, tmp_path / "out", small_student, **options), cache, selection)
    assert found == Counter(expected)


def test_a_run_on_a_selection_trains_on_it_and_records_it(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    make = Loader._make

    def spy(loader: Loader, epoch: int, number: int) -> Batch:
        batch = make(loader, epoch, number)
        if loader._shuffle:
            seen.update(batch.samples.tolist())
        return batch

    monkeypatch.setattr(Loader, "_make", spy)
    figures = train(training(cache, tmp_path / "out", small_student, select=half, alpha=0.5))
    kept_out = held_out(cache.documents(), 0.2)
    selection = read_selection(half)
    assert seen == {int(s) for s in selection.samples_M if not kept_out[s]}
    assert figures["eval_rows"] == sum(cache[int(s)].sample.rows for s in np.flatnonzero(kept_out))
    summary = json.loads((tmp_path / "out" / "logitstore.json").read_text())
    assert summary["selection"] == selection.checksum


def test_a_selection_of_nothing_but_held_out_documents_leaves_nothing(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    out, written = selection_of(cache, tmp_path, method="random", samples=1)
    kept_out = np.flatnonzero(held_out(cache.documents(), 0.2))[:1]
    info = written.info
    write_selection(out, Selection(info=info, samples_M=kept_out, weight_M=None))
    with pytest.raises(BadInput, match="every chosen sample is of a document that is held out"):
        train(training(cache, tmp_path / "out", small_student, select=out))


@pytest.mark.parametrize("options", [rarely({}), rarely({"curriculum": "easy-first"}), {"curriculum": "cyclical"}])
def test_a_run_on_a_selection_that_is_gone_on_with_equals_one_in_one_go(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    options = {"select": half, "epochs": 2.0, "save_every": 3, **options}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(training(cache, whole, small_student, **options, keep_checkpoints=99))
    shutil.copytree(whole / "checkpoint-3", stopped / "checkpoint-3")
    moved = Path(shutil.copy(half, tmp_path / "moved.arrow"))
    train(training(cache, stopped, small_student, **options | {"select": moved, "resume": True}))
    assert curve(stopped) == curve(whole)


def test_a_run_is_not_gone_on_with_on_another_selection(
    cache: logitstore.Cache, small_student: Path, half: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    train(training(cache, out, small_student, select=half, max_steps=2, save_every=1))
    summary = json.loads((out / "logitstore.json").read_text())
    del summary["figures"]
    (out / "logitstore.json").write_text(json.dumps(summary))
    other, _ = selection_of(cache, tmp_path, method="random", ratio=0.5)
    for changed in (other, None):
        with pytest.raises(BadInput, match=r"began with selection = .* Give the same selection"):
            train(training(cache, out, small_student, select=changed, max_steps=2, save_every=1, resume=True))


def test_the_weight_of_a_sample_multiplies_the_loss_of_its_rows(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    trainer = trainer_of(cache, small_student, tmp_path, alpha=0.0)
    weights = np.linspace(0.5, 2, len(cache)).astype(np.float32)
    plain = next(iter(Loader(cache, batch_size=4, shuffle=False)))
    weighted = next(iter(Loader(cache, batch_size=4, shuffle=False, weights=weights)))
    assert weighted.weight is not None
    counts = [cache[s].sample.rows for s in range(4)]
    torch.testing.assert_close(weighted.weight, torch.from_numpy(np.repeat(weights[:4], counts)))
    losses = []
    for sample in range(4):
        alone = next(iter(Loader(cache, batch_size=1, shuffle=False, samples=np.array([sample]))))
        losses.append(trainer.compute_loss(trainer.model, alone.tensors()) * counts[sample])
    expected = sum(loss * float(weights[s]) for s, loss in enumerate(losses)) / sum(counts)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, weighted.tensors()), expected)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, plain.tensors()), sum(losses) / sum(counts))
