"""Image classifiers of every kind: what is stored is what they say of a view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from logitstore.convert.recode import recode
from logitstore.dump.audit import audit
from logitstore.dump.dump import dump
from logitstore.errors import ModelError
from logitstore.settings.convert import RecodeSettings
from logitstore.store.cache import Cache
from logitstore.store.checks.verify import verify
from tests.parts.commands import Refused
from tests.parts.images import images_plan, save_classifier, small_vit
from tests.parts.marks import often
from tests.parts.vision import EXACTLY, direct, small_teacher, stored

TEACHERS = ["vit", "deit", "deit with teacher", "swin", "convnext", "resnet"]


@pytest.mark.parametrize("name", often(TEACHERS, {"vit", "resnet", "deit with teacher"}.__contains__))
def test_what_is_stored_is_what_a_teacher_says_of_the_view(images: Path, tmp_path: Path, name: str) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    cache = dump(images_plan(teacher, images, tmp_path / "cache", **EXACTLY))
    logits_BC, _ = direct(teacher, cache, range(40))
    torch.testing.assert_close(stored(cache), logits_BC.log_softmax(-1), rtol=0, atol=2e-5)
    found = audit(cache, str(teacher), 1.0, device="cpu")
    assert (found.rows, found.passed, found.same_weights) == (40, True, True)
    assert found.stored < 1e-4


@pytest.mark.parametrize("name", often(TEACHERS, {"vit", "convnext"}.__contains__))
def test_the_hidden_state_stands_for_the_logits_where_the_head_is_linear(
    images: Path, tmp_path: Path, name: str
) -> None:
    teacher = save_classifier(tmp_path / "teacher", small_teacher(name))
    plans = {
        preset: images_plan(teacher, images, tmp_path / preset, preset=preset, limit=20, views=2, k=None)
        for preset in ("exact", "small")
    }
    if name == "deit with teacher":
        # the mean of two heads, which is as wide as both: a sketch takes the logits
        with pytest.raises(ModelError, match=r"logits differ from head times hidden state.*Use --preset small\.$"):
            dump(plans["exact"])
        logits_BC, _ = direct(teacher, alone := dump(plans["small"]), range(40))
        expected_BC = logits_BC.log_softmax(-1)
        assert (expected_BC.exp() * (expected_BC - stored(alone))).sum(-1).mean() < 0.05
        return
    logits_BC, _ = direct(teacher, dump(plans["exact"]), range(40))
    expected_BC = logits_BC.log_softmax(-1)
    torch.testing.assert_close(stored(Cache(plans["exact"].out)), expected_BC, rtol=0, atol=0.1)
    small = dump(plans["small"])
    assert verify(small.path) == []
    kl_B = (expected_BC.exp() * (expected_BC - stored(small))).sum(-1)
    assert 0 <= kl_B.mean() < 0.05
    recoded = recode(RecodeSettings(cache=plans["exact"].out, out=tmp_path / "recoded", preset="small"))
    assert verify(recoded.path) == []
    assert [each.sample for each in recoded] == [each.sample for each in small]


@pytest.mark.parametrize(("classes", "preset"), [(16, "topk"), (17, "small")])
def test_of_few_classes_all_are_kept_and_of_more_a_sketch(
    images: Path, tmp_path: Path, classes: int, preset: str
) -> None:
    names = [f"class {number}" for number in range(classes)]
    told = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    teacher = save_classifier(tmp_path / "teacher", small_vit(**told))
    plan = images_plan(teacher, images, tmp_path / "cache", views=1, k=None, labels=False, pilot_rows=40)
    cache = dump(plan)
    assert (cache.manifest.preset, cache.manifest.sparsifier.k) == (preset, 16 if preset == "topk" else 4)
    assert verify(cache.path) == []
    assert cache.fidelity.sums["kl_t1"][0] < 0.05 * cache.fidelity.rows


def test_scores_of_images_are_kept_without_their_rows(
    classifier: Path, images: Path, image_cache: Cache, tmp_path: Path, refused: Refused
) -> None:
    cache = dump(images_plan(classifier, images, tmp_path / "cache", preset="scores", k=None))
    np.testing.assert_allclose(cache.nll(), image_cache.nll(), rtol=2e-3)
    assert verify(cache.path) == []
    line = refused("evaluate", cache.path, "--student", classifier)
    assert "keeps scores only" in line
    assert "keeps scores only" in refused("inspect", cache.path, "--sample", "0")
