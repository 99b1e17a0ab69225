"""Students of images of which some have no label: cross-entropy is on those that have one."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageClassification, TrainingArguments

from logitstore.core.order import held_out
from logitstore.dump.dump import dump
from logitstore.store.cache import Cache
from logitstore.targets.targets import Targets
from logitstore.train.learner import Learner
from logitstore.train.loader.batch import Batch
from logitstore.train.loader.loader import Loader
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.trainer import DistillTrainer
from tests.parts.commands import Command, Refused
from tests.parts.images import digits, images_plan


@pytest.fixture(scope="module")
def partly(tmp_path_factory: pytest.TempPathFactory, classifier: Path) -> Cache:
    """Two views of 24 images, of which the last 16 have no label."""
    folder = tmp_path_factory.mktemp("partly")
    data = digits(folder / "images", range(8))
    digits(data, range(8, 24), labelled=False)
    return dump(images_plan(classifier, data, folder / "cache", views=2, limit=None, k=10, tail="uniform"))


def trainer_for(cache: Cache, student: Path, out: Path, name: str, alpha: float) -> DistillTrainer:
    arguments = TrainingArguments(output_dir=str(out), use_cpu=True, report_to="none", disable_tqdm=True)
    model = AutoModelForImageClassification.from_pretrained(student, dtype=torch.float32).eval()
    learner = Learner(student=model, criterion=Criterion.mixed(name, alpha=alpha))
    loader = Loader(cache, batch_size=4)
    return DistillTrainer(
        learners=[learner], args=arguments, train_loader=loader, held_out_loader=None, has_unlabelled=True
    )


def chosen(cache: Cache, labels: Sequence[bool]) -> list[int]:
    """Numbers of samples that have a label, or none, as asked for."""
    by_label: dict[bool, list[int]] = {True: [], False: []}
    for number in range(len(cache)):
        by_label[cache[number].sample.label >= 0].append(number)
    return [by_label[has_label].pop() for has_label in labels]


def batch_of(cache: Cache, labels: Sequence[bool]) -> Batch:
    loader = Loader(cache, batch_size=len(labels), samples=np.array(chosen(cache, labels)), shuffle=False)
    return next(iter(loader))


def doubled(trainer: DistillTrainer) -> torch.nn.Module:
    return copy.deepcopy(trainer.model).double()


def direct(model: torch.nn.Module, cache: Cache, batches: list[Batch], name: str, alpha: float) -> Tensor:
    """The mean over all rows of one loss, and over the labelled ones of the other, written out in float64."""
    loader = Loader(cache, batch_size=4)
    distilled, gold = [], []
    for batch in batches:
        logprobs_BC = model(pixel_values=batch.pixel_values.double()).logits.log_softmax(-1)
        targets = loader.targets(batch)
        assert isinstance(targets, Targets)
        teacher_BC = torch.zeros_like(logprobs_BC).scatter(1, targets.ids_NK, targets.logprobs_NK.double())
        teacher_BC = teacher_BC.log_softmax(-1)
        first, second = (teacher_BC, logprobs_BC) if name == "forward_kl" else (logprobs_BC, teacher_BC)
        distilled.append((first.exp() * (first - second)).sum(-1))
        gold += [-row_C[label] for row_C, label in zip(logprobs_BC, batch.gold, strict=True) if label >= 0]
    golds = torch.stack(gold).mean() if gold else 0.0
    return alpha * torch.cat(distilled).mean() + (1 - alpha) * golds


def gradient(model: torch.nn.Module, loss: Tensor) -> Tensor:
    parameters = [each for each in model.parameters() if each.requires_grad]
    return torch.cat([each.flatten() for each in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl"])
@pytest.mark.parametrize("alpha", [0.0, 0.3])
@pytest.mark.parametrize(
    "labels",
    [
        [[True, False, True, False, False]],
        [[False] * 3],
        [[True] * 3],
        [[True, True, False], [False] * 3, [True, False]],
    ],
    ids=["some", "none", "all", "accumulated"],
)
def test_cross_entropy_is_the_mean_over_the_labelled_rows_of_a_step(
    partly: Cache, classifier: Path, tmp_path: Path, name: str, alpha: float, labels: list[list[bool]]
) -> None:
    trainer = trainer_for(partly, classifier, tmp_path, name, alpha)
    batches = [batch_of(partly, each) for each in labels]
    given, rows = trainer.get_batch_samples(
        iter([batch.tensors() for batch in batches]), len(batches), torch.device("cpu")
    )
    found = torch.stack([trainer.compute_loss(trainer.model, each, num_items_in_batch=rows) for each in given]).sum()
    truth = doubled(trainer)
    expected = direct(truth, partly, batches, name, alpha)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(trainer.model, found).double(), gradient(truth, expected), rtol=1e-4, atol=1e-6)
    if len(batches) == 1:
        alone = trainer.compute_loss(trainer.model, batches[0].tensors())
        torch.testing.assert_close(alone, found, rtol=1e-6, atol=1e-7)


def test_what_is_logged_of_cross_entropy_is_its_mean_over_the_labelled_rows(
    partly: Cache, classifier: Path, tmp_path: Path
) -> None:
    trainer = trainer_for(partly, classifier, tmp_path, "forward_kl", 0.3)
    batch = batch_of(partly, [True, False, True, False, False])
    trainer.compute_loss(trainer.model, batch.tensors())
    sums = trainer.learners[0].sums
    expected = direct(doubled(trainer), partly, [batch], "forward_kl", 0.0)
    torch.testing.assert_close((sums["cross_entropy"] / sums["rows"]).double(), expected, rtol=1e-5, atol=1e-6)


def test_training_says_how_many_have_no_label_and_judges_those_that_have_one(
    partly: Cache, classifier: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options: list[Any] = ["--student", classifier, "--alpha", 0.5, "--holdout", 0, "--batch-size", 2, "--epochs", 1]
    assert command("train", partly.path, "--out", out, *options, "--device", "cpu") == 0
    said = "note: 16 of the samples to train on have no label; cross-entropy is the mean over the others."
    assert capsys.readouterr().err.count(said) == 1
    kept = json.loads((out / "logitstore.json").read_text(), parse_constant=pytest.fail)
    losses = [entry["loss"] for entry in kept["log"] if "loss" in entry]
    assert losses
    assert all(np.isfinite(losses))


def test_objectives_that_need_every_label_are_refused(
    partly: Cache, classifier: Path, tmp_path: Path, refused: Refused
) -> None:
    for name in ("dkd", "one_for_all", "plackett_luce"):
        line = refused(
            "train", partly.path, "--student", classifier, "--out", tmp_path / "out", "--objective", name, "--alpha", 1
        )
        assert (
            f"16 of its images have no label, and {name} needs one for every image. Give an objective without labels."
            in line
        )


def test_labels_that_are_all_held_out_are_refused(classifier: Path, tmp_path: Path, refused: Refused) -> None:
    count = next(number for number in range(4, 40) if held_out(np.arange(number), 0.25)[-1])
    data = digits(tmp_path / "images", range(count - 1), labelled=False)
    digits(data, [count - 1])  # a folder's name comes after the digits of the other files
    cache = dump(images_plan(classifier, data, tmp_path / "cache", limit=None, k=10, tail="uniform"))
    options = ["--student", classifier, "--alpha", 0.5, "--holdout", 0.25, "--device", "cpu"]
    line = refused("train", cache.path, "--out", tmp_path / "out", *options)
    assert "the images that --holdout 0.25 leaves to train on have no label" in line
    assert "Give --alpha 1." in line
