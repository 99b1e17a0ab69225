"""LELP on a classifier of texts: directions of each class from one pass over a cache, and a student that learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.train.sidecars import sidecar
from logitstore.train.train import train
from tests.classification.test_train import judged
from tests.parts.classes import classes_plan, save_bert, wordpiece
from tests.parts.training import curve


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory, judge: Path, more_labelled: Path) -> logitstore.Cache:
    out = tmp_path_factory.mktemp("embedded") / "cache"
    return dump(classes_plan(judge, more_labelled, out, hidden="final", tap_codec="float32"))


def test_directions_of_a_class_are_those_of_its_rows_apart_from_the_output_layer(
    embedded: logitstore.Cache, judge: Path
) -> None:
    """Against the teacher's own weights, and principal components by SVD, in float64."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(judge)
    own = model.classifier.weight.detach().double().numpy()
    own -= own.mean(0)
    loader = embedded.loader(batch_size=100, shuffle=False, taps=["final"])
    batch = loader.at(0, 0)
    rows = loader.features(batch)["final"].double().numpy()
    targets: Any = loader.targets(batch)
    answers = torch.zeros(len(rows), 3).double().scatter_(1, targets.ids_NK, targets.logprobs_NK.double()).numpy()
    found = {name: value.double().numpy() for name, value in sidecar(embedded, "subclasses", "final").items()}
    logits = rows @ found["weight"].T + found["bias"]
    said = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(said, answers, atol=5e-3)  # logprobs are stored in 16 bits
    outside = np.linalg.svd(own)[2][2:]
    assert np.abs(found["basis"] @ outside.T).max() < 0.05
    rest = rows - rows @ found["basis"].T @ found["basis"]
    compared = 0
    for number in range(3):
        some = rest[answers.argmax(1) == number]
        if len(some) < 3:
            continue
        compared += 1
        np.testing.assert_allclose(found["mean"][number], some.mean(0), atol=1e-4)
        _, sizes, vectors = np.linalg.svd(some - some.mean(0), full_matrices=False)
        np.testing.assert_allclose(found["variance"][number, :2], sizes[:2] ** 2 / len(some), rtol=1e-3, atol=1e-6)
        assert abs(found["directions"][number, 0] @ vectors[0]) == pytest.approx(1, abs=1e-3)
    assert compared


def test_the_recipe_brings_a_student_nearer_to_the_teacher(embedded: logitstore.Cache, tmp_path: Path) -> None:
    student = save_bert(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1, hidden_size=16)
    flags = {"cache": embedded.path, "out": tmp_path / "out", "student": str(student), "max_steps": 20, "batch_size": 8}
    flags |= {"device": "cpu", "holdout": 0.0, "learning_rate": 3e-3, "trainer": {"logging_steps": 1}}
    train(load(TrainSettings, "train", None, flags, named="lelp"))
    losses = list(curve(tmp_path / "out").values())
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert judged(embedded, tmp_path / "out").kl < judged(embedded, student).kl


def test_classes_that_are_not_all_kept_are_refused(judge: Path, labelled: Path, tmp_path: Path) -> None:
    cache = dump(classes_plan(judge, labelled, tmp_path / "cache", hidden="final", k=2, limit=10))
    with pytest.raises(BadInput, match="it does not list every one of its 3 classes"):
        sidecar(cache, "subclasses", "final")
