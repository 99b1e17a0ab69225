"""Features of every patch of a view: stored view by view, and learnt from by students with the same patches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification

import logitstore
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import BadInput, CacheMismatch
from logitstore.settings.dump import AddSettings
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.store.checks.verify import verify
from logitstore.train.train import train
from tests.parts.images import images_plan, save_classifier, small_resnet, small_vit
from tests.parts.marks import often
from tests.parts.training import curve

PLACES = 17
"""The class token and 4 x 4 patches."""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory, classifier: Path, images: Path) -> logitstore.Cache:
    """Two views of 24 images with half of their patches blanked, and what the teacher computes at every patch."""
    plan = images_plan(
        classifier,
        images,
        tmp_path_factory.mktemp("masked") / "cache",
        views=2,
        limit=24,
        samples_per_part=16,
        augment="whole,mask:share=0.5:grid=4",
        hidden="all",
        qkv="all",
        tap_codec="float32",
    )
    return dump(plan)


def test_every_patch_of_every_view_has_what_the_teacher_computes(masked: logitstore.Cache, classifier: Path) -> None:
    model: Any = AutoModelForImageClassification.from_pretrained(classifier).eval()
    names = ["hidden-0", "hidden-1", "hidden-2", "final"]
    loader = masked.loader(batch_size=9, taps=names)
    batch = loader.at(0, 1)
    with torch.no_grad():
        said = model(**batch.model_inputs(), output_hidden_states=True)
    features = loader.features(batch)
    assert masked.taps["hidden-1"].info.places == PLACES
    assert batch.features["hidden-1/counts"].tolist() == [PLACES] * 9
    for name, expected in zip(names, said.hidden_states, strict=False):
        assert torch.allclose(features[name].view(9, PLACES, -1), expected, atol=1e-4), name
    first = model.vit.layernorm(said.hidden_states[2])[:, 0]
    assert torch.allclose(features["final"], first, atol=1e-4)


def test_taps_of_patches_are_added_and_verified(masked: logitstore.Cache, images: Path, tmp_path: Path) -> None:
    assert verify(masked.path) == []
    with pytest.raises(BadInput, match="--qkv 3: the teacher has 1 to 2; 3 is not there"):
        add(AddSettings(cache=masked.path, qkv="3", device="cpu"))
    convolutional = save_classifier(tmp_path / "resnet", small_resnet())
    with pytest.raises(BadInput, match="--hidden 1: the teacher is no stack of like layers"):
        dump(images_plan(convolutional, images, tmp_path / "cache", hidden="1"))


def learnt(cache: logitstore.Cache, out: Path, student: Path, **changes: Any) -> list[float]:
    """The losses of a run."""
    recipe = changes.pop("recipe", None)
    flags = {
        "cache": cache.path,
        "out": out,
        "student": str(student),
        "max_steps": 20,
        "batch_size": 8,
        "device": "cpu",
    }
    flags |= {"holdout": 0.0, "learning_rate": 3e-3, "trainer": {"logging_steps": 1}} | changes
    train(load(TrainSettings, "train", None, flags, named=recipe))
    return list(curve(out).values())


RECIPES = ["dmae", "g2sd", "trg", "minilm_v2", "further_pretraining", "proc_kd"]


@pytest.mark.parametrize("recipe", often(RECIPES, "minilm_v2".__ne__))
def test_recipes_on_patches_train_a_classifier(masked: logitstore.Cache, tmp_path: Path, recipe: str) -> None:
    student = save_classifier(tmp_path / "student", small_vit(3, hidden_size=16, intermediate_size=24))
    more = {"alpha": 1.0} if recipe in ("trg", "proc_kd") else {}
    losses = learnt(masked, tmp_path / "out", student, recipe=recipe, **more)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_one_teacher_gives_relations_and_another_its_last_states(
    masked: logitstore.Cache, images: Path, tmp_path: Path
) -> None:
    """The loss is the sum of those of both alone."""
    second = save_classifier(tmp_path / "second", small_vit(5, hidden_size=24))
    view = {"views": 2, "limit": 24, "samples_per_part": 16, "augment": "whole,mask:share=0.5:grid=4"}
    other = dump(images_plan(second, images, tmp_path / "other", hidden="2", tap_codec="float32", **view))
    student = save_classifier(tmp_path / "student", small_vit(3))
    together = learnt(masked, tmp_path / "out", student, recipe="hybrid", also=[other.path])
    assert np.mean(together[-5:]) < np.mean(together[:5])
    settings = {"objective": "none", "max_steps": 1}
    options = {"kind": "mse", "layers": "last-1", "norm": "teacher"}
    alone = [
        learnt(
            masked, tmp_path / "one", student, terms=[{"name": "relations", "options": {"layers": "inner"}}], **settings
        ),
        learnt(other, tmp_path / "two", student, terms=[{"name": "match", "options": options}], **settings),
    ]
    assert together[0] == pytest.approx(alone[0][0] + alone[1][0], rel=1e-5)
    with pytest.raises(BadInput, match="match: teacher 2: there are 1"):
        learnt(masked, tmp_path / "three", student, terms=[{"name": "match", "teacher": 2}], **settings)
    with pytest.raises(BadInput, match="forward_kl: teacher 2: it compares the first teacher alone"):
        learnt(
            masked,
            tmp_path / "three",
            student,
            terms=[{"name": "forward_kl", "teacher": 2}],
            also=[other.path],
            max_steps=1,
        )


def test_a_student_that_is_its_teacher_has_no_loss_and_other_patches_are_refused(
    masked: logitstore.Cache, classifier: Path, tmp_path: Path
) -> None:
    terms = [{"name": "match", "options": {"layers": "all"}}, {"name": "relations"}]
    settings = {"objective": "none", "terms": terms, "max_steps": 1, "learning_rate": 1e-12}
    assert learnt(masked, tmp_path / "same", classifier, **settings)[0] == pytest.approx(0, abs=1e-5)
    other = save_classifier(tmp_path / "student", small_vit(3, patch_size=8))
    with pytest.raises(CacheMismatch, match="the student has 40 places of 8 samples and the teacher 136"):
        learnt(masked, tmp_path / "other", other, **settings)
