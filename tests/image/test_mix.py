"""Images that are mixed when they are read, with the stored answers about both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from logitstore.settings.train import TrainSettings
from logitstore.store.cache import Cache
from logitstore.targets.dense import dense
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.objectives.kernels.from_logits import from_logits
from logitstore.train.students.beside.mixing import Mixing
from logitstore.train.train import train
from tests.parts.commands import Refused
from tests.parts.images import save_classifier, small_resnet


def test_images_and_answers_are_mixed_by_the_same_share(image_cache: Cache) -> None:
    """The gradient is that of the cross-entropy to the mixed answer, in float64."""
    loader = Loader(image_cache, batch_size=6)
    batch = next(iter(loader))
    mixing = Mixing(spread=0.8, seed=3)
    mixed, partners, share_N = mixing.mixed(batch, 5)
    targets, others = loader.targets(batch), loader.targets(partners)
    own_NV, other_NV = dense(targets).double(), dense(others).double()  # type: ignore[arg-type]
    place_N = [int((dense(targets) - row).abs().sum(1).argmin()) for row in dense(others)]  # type: ignore[arg-type]
    for number, other in enumerate(place_N):
        share = share_N[number]
        pixels = batch.inputs["pixel_values"]
        expected = share * pixels[number] + (1 - share) * pixels[other]
        assert torch.allclose(mixed.inputs["pixel_values"][number], expected, atol=1e-6)
    again, _, share_again_N = mixing.mixed(batch, 5)
    assert torch.equal(share_N, share_again_N)
    assert torch.equal(again.inputs["pixel_values"], mixed.inputs["pixel_values"])
    assert not torch.equal(share_N, mixing.mixed(batch, 6)[2])
    logits_NV = torch.randn(own_NV.shape)
    loss = Criterion.mixed().row_loss(targets, batch.gold, 0.0, also=[others], shares=[share_N, 1 - share_N])
    leaf, plain = logits_NV.clone().requires_grad_(), logits_NV.double().requires_grad_()
    from_logits(loss, leaf, torch.arange(len(leaf)))[0].backward()
    mixed_NV = share_N[:, None] * own_NV + (1 - share_N[:, None]) * other_NV
    (-(mixed_NV * torch.log_softmax(plain, -1)).sum()).backward()  # type: ignore[no-untyped-call]
    assert leaf.grad is not None
    assert plain.grad is not None
    assert torch.allclose(leaf.grad.double(), plain.grad, atol=1e-6)


def test_a_student_learns_from_mixed_images_and_goes_on_after_an_interruption(
    image_cache: Cache, tmp_path: Path, refused: Refused
) -> None:
    student = save_classifier(tmp_path / "student", small_resnet(5))
    usual: dict[str, Any] = {
        "student": str(student),
        "max_steps": 20,
        "save_every": 13,
        "keep_checkpoints": 2,
        "mix": 0.8,
    }
    usual |= {"device": "cpu", "trainer": {"logging_steps": 1}, "learning_rate": 3e-3, "objective": "forward_kl"}
    whole, out = tmp_path / "whole", tmp_path / "out"
    train(TrainSettings(cache=image_cache.path, out=whole, **usual))
    log = [each for each in json.loads((whole / "logitstore.json").read_text())["log"] if "loss" in each]
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["kl"] + entry["kl/2"], rel=1e-4)
    assert sum(each["loss"] for each in log[-5:]) < sum(each["loss"] for each in log[:5])
    shutil.copytree(whole / "checkpoint-13", out / "checkpoint-13")
    train(TrainSettings(cache=image_cache.path, out=out, **usual, resume=True))
    for name, value in load_file(whole / "model.safetensors").items():
        assert torch.equal(value, load_file(out / "model.safetensors")[name])
    command = ["train", image_cache.path, "--student", student, "--out", tmp_path / "no", "--mix", 0.8]
    assert "a mixed image has no label" in refused(*command, "--alpha", 0.5)
    assert "the answers of one teacher" in refused(*command, "--own-answers", 4)
