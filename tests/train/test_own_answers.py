"""A student that learns from its own answers of the epoch before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import logitstore
from logitstore.core.progress import Step
from logitstore.errors import BadInput
from logitstore.settings.recipe import load
from logitstore.settings.train import TrainSettings
from logitstore.targets.dense import dense
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.students.beside.own_answers import FOLDER_NAME, OwnAnswers
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.training import plan_of


@pytest.mark.parametrize("keep", [5, 1000])
def test_what_is_kept_is_what_the_student_said(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, keep: int
) -> None:
    """Against the whole softmax in float64: exact with the whole vocabulary, else with the rest spread evenly."""
    vocabulary = cache.manifest.teacher.vocabulary
    own = OwnAnswers(tmp_path, cache.row_counts(), keep=keep, vocabulary=vocabulary)
    own.begin(0, 10)
    student = AutoModelForCausalLM.from_pretrained(small_student, dtype=torch.float32).eval()
    batches = [next(iter(Loader(cache, batch_size=3, seed=seed))) for seed in (0, 1)]
    for batch in batches:
        before = own.targets(batch, 0)
        assert torch.equal(dense(before).argmax(-1), batch.gold)
        assert bool((dense(before).max(-1).values == 1).all())
        with torch.no_grad():
            logits_RV = student(**batch.model_inputs()).logits.flatten(0, 1)
        noted = own.noting(Criterion.mixed(alpha=0.5).row_loss(before, batch.gold, 0.0), batch)
        from_logits(noted, logits_RV, batch.rows, chunk=7)
        own.keep(noted, batch, 0)
        said_NV = torch.softmax(logits_RV[batch.rows, :vocabulary].double(), -1)
        found_NV = dense(own.targets(batch, 1)).double()
        assert torch.allclose(found_NV.sum(-1), torch.ones(len(found_NV)).double(), atol=1e-5)
        best_NK, ids_NK = said_NV.topk(own.kept, -1)
        assert torch.allclose(found_NV.gather(1, ids_NK), best_NK, atol=1e-6)
        if keep >= vocabulary:
            assert torch.allclose(found_NV, said_NV, atol=1e-6)
        else:
            even_NV = ((1 - best_NK.sum(-1)) / (vocabulary - keep))[:, None].expand_as(said_NV)
            assert torch.allclose(found_NV, even_NV.scatter(1, ids_NK, best_NK), atol=1e-6)
    read = np.concatenate([batch.samples.numpy() for batch in batches])
    unread = next(iter(Loader(cache, batch_size=1, samples=np.setdiff1d(np.arange(len(cache)), read), shuffle=False)))
    assert torch.equal(dense(own.targets(unread, 1)).argmax(-1), unread.gold)


def test_epochs_follow_each_other_and_go_on_after_an_interruption(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, refused: Refused
) -> None:
    changes: dict[str, Any] = {"student": str(small_student), "batch_size": 4, "save_every": 5, "keep_checkpoints": 2}

    def plan(out: Path, **more: Any) -> TrainSettings:
        flags = plan_of(cache, out, **changes, **more).model_dump(mode="json", exclude_unset=True)
        return load(TrainSettings, "train", None, flags, named="ps_kd")

    whole = tmp_path / "whole"
    train(plan(whole, epochs=3))
    log = [each for each in json.loads((whole / "logitstore.json").read_text())["log"] if "loss" in each]
    steps = len(log) // 3
    assert len(log) >= 20
    for entry in log[:steps]:
        # the gold token stands in the place of an answer, whatever alpha is
        assert entry["loss"] == pytest.approx(entry["cross_entropy"], rel=1e-4)
    assert all(abs(entry["kl"] - entry["cross_entropy"]) > 1e-3 for entry in log[steps:])
    assert sum(each["cross_entropy"] for each in log[-5:]) < sum(each["cross_entropy"] for each in log[:5])
    out = tmp_path / "out"
    # what the stopped run noted behind its checkpoint is noted again; what it read is read again; in the first epoch too
    for last in (6, steps + steps // 2):

        def stop(step: Step, last: int = last) -> None:
            if step.stage == "train" and step.done >= last:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(plan(out, epochs=3, resume=last > 6), stop)
        left = shutil.copytree(out, tmp_path / f"left-{last}")
        shutil.rmtree(left / FOLDER_NAME)
        with pytest.raises(BadInput, match=r"epoch-00000\.f32: what the student said before is not there"):
            train(plan(left, epochs=3, resume=True))
    train(plan(out, epochs=3, resume=True))
    for name, value in load_file(whole / "model.safetensors").items():
        assert torch.equal(value, load_file(out / "model.safetensors")[name])
    said = refused(
        "train", cache.path, "--student", small_student, "--out", tmp_path / "no", "--own-answers", 4, "--alpha", 0
    )
    assert "nothing pulls the student towards an answer" in said
