"""Recipes of papers about masked words, each for 20 steps on a small real cache, and the loss against one in float64."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

import logitstore
from logitstore.convert.merge import merge
from logitstore.core.methods import METHODS
from logitstore.core.types import ModelRef
from logitstore.dump.add import add
from logitstore.dump.dump import dump
from logitstore.errors import CacheMismatch, ModelError
from logitstore.models.load import load_config, load_weights
from logitstore.settings.convert import MergeSettings
from logitstore.settings.dump import AddSettings
from logitstore.store.checks.verify import verify
from logitstore.train.learner import Learner
from logitstore.train.objectives.criterion import Criterion
from logitstore.train.train import train
from tests.masked.test_dump import said, stored
from tests.masked.test_train import judged
from tests.parts.classes import CLASSES, wordpiece
from tests.parts.commands import Command
from tests.parts.masked import masked_plan, save_masked
from tests.parts.training import curve, plan_of

STEPS = ("--max-steps", 20, "--batch-size", 8, "--learning-rate", 3e-3, "--device", "cpu", "--set", "logging_steps=1")


def test_the_loss_is_that_of_the_formula_in_float64(masked_cache: logitstore.Cache, tmp_path: Path) -> None:
    """0.7 times KL at temperature 2, times its square, and 0.3 of cross-entropy, at the masked positions and nowhere else."""
    place = save_masked(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    student = AutoModelForMaskedLM.from_pretrained(place).eval()
    loader = masked_cache.loader(batch_size=6, shuffle=False)
    batch = loader.at(0, 0)
    count = len(batch.rows)
    teacher_NV = stored(masked_cache)[:count]
    own_NV = student(**batch.model_inputs()).logits.flatten(0, 1)[batch.rows].double()
    soft_NV = (teacher_NV.log() / 2).log_softmax(-1)
    kl_N = (soft_NV.exp() * (soft_NV - (own_NV / 2).log_softmax(-1))).sum(-1)
    gold_N = -own_NV.log_softmax(-1).gather(1, batch.gold[:, None])[:, 0]
    expected = (0.7 * 4 * kl_N + 0.3 * gold_N).mean()
    expected.backward()
    wanted = {name: value.grad.clone() for name, value in student.named_parameters() if value.grad is not None}
    student.zero_grad()
    learner = Learner(student=student, criterion=Criterion.mixed(alpha=0.7, temperature=2.0))
    loss, _ = learner.loss(student, batch, loader, torch.full((count,), 1 / count), 0.0)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    loss.backward()
    for name, value in student.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(value.grad, wanted[name], rtol=1e-3, atol=1e-5, msg=name)


def test_distilbert_copies_layers_and_learns_from_final_hidden_states(
    masked_cache: logitstore.Cache, guesser: Path, command: Command, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(masked_cache.path, tmp_path / "cache"))
    add(AddSettings(cache=folder, hidden="final", tap_codec="float32", device="cpu"))
    assert verify(folder) == []
    cache = logitstore.open(folder)
    model = AutoModelForMaskedLM.from_pretrained(guesser).eval()
    batch = cache.loader(batch_size=3, shuffle=False, taps=["final"]).at(0, 0)
    with torch.no_grad():
        final_RD = model(**batch.model_inputs(), output_hidden_states=True).hidden_states[-1].flatten(0, 1)
    kept_ND = cache.loader(batch_size=3, shuffle=False, taps=["final"]).features(batch)["final"]
    torch.testing.assert_close(kept_ND, final_RD[batch.rows], rtol=1e-4, atol=1e-4)
    out = tmp_path / "out"
    flags = ("--student", guesser, "--copy-layers", 1, "--out", out, *STEPS)
    assert command("train", folder, "--recipe", "distilbert", *flags) == 0
    losses = curve(out)
    assert sum(losses[step] for step in (18, 19, 20)) < 0.9 * sum(losses[step] for step in (1, 2, 3))
    assert AutoModelForMaskedLM.from_pretrained(out).config.num_hidden_layers == 1


def test_a_mean_of_two_teachers_is_the_mean_of_what_they_say(
    masked_cache: logitstore.Cache, guesser: Path, plain_texts: Path, tmp_path: Path
) -> None:
    other = save_masked(tmp_path / "teacher", wordpiece(), "distilbert", seed=5)
    second = dump(masked_plan(other, plain_texts, tmp_path / "second"))
    mean = merge(MergeSettings(caches=[masked_cache.path, second.path], out=tmp_path / "mean"))
    assert verify(mean.path) == []
    expected_NV = (said(guesser, mean).exp() + said(other, mean).exp()) / 2
    # each of the two lists eight tokens and spreads the rest, so the most probable one is compared
    assert (stored(mean).argmax(1) == expected_NV.argmax(1)).double().mean() > 0.9
    moved = dump(masked_plan(other, plain_texts, tmp_path / "moved", seed=3))
    with pytest.raises(CacheMismatch, match=r"masked by different rules or seeds.* Dump both with the same --seed"):
        merge(MergeSettings(caches=[masked_cache.path, moved.path], out=tmp_path / "none"))


def test_a_student_of_masked_words_begins_a_classifier(
    guesser: Path,
    plain_texts: Path,
    masked_cache: logitstore.Cache,
    class_cache: logitstore.Cache,
    command: Command,
    tmp_path: Path,
) -> None:
    """Well-Read Students: masked words without a teacher, then a classifier's answers."""
    words = dump(masked_plan(guesser, plain_texts, tmp_path / "words", preset="scores", k=None))
    first, second = tmp_path / "pretrained", tmp_path / "read"
    train(plan_of(words, first, layers=1, alpha=0.0, max_steps=20, holdout=0.0))
    losses = curve(first)
    assert losses[20] < losses[1]
    begun = load_weights(
        ModelRef(name=str(first)),
        load_config(ModelRef(name=str(first))),
        torch.float32,
        "text-classification",
        new_head=True,
    )
    kept = AutoModelForMaskedLM.from_pretrained(first).state_dict()
    same = [name for name, value in begun.state_dict().items() if name in kept and torch.equal(value, kept[name])]
    assert {name for name in kept if name.startswith("bert.")} <= set(same)
    flags = ("--student", first, "--out", second, *STEPS, "--max-steps", 40, "--learning-rate", 1e-3)
    assert command("train", class_cache.path, "--recipe", "well_read", *flags) == 0
    losses = curve(second)
    assert sum(losses[step] for step in range(31, 41)) < 0.9 * sum(losses[step] for step in range(1, 11))
    config = AutoModelForSequenceClassification.from_pretrained(second).config
    assert [config.id2label[number] for number in range(3)] == CLASSES
    assert judged(class_cache, second).rows == 44
    with pytest.raises(CacheMismatch, match="it has 2 classes"):
        judged(class_cache, first)
    with pytest.raises(ModelError, match="it is a BertForSequenceClassification"):
        judged(masked_cache, second)


def test_every_objective_on_logits_falls_at_the_masked_positions(
    masked_cache: logitstore.Cache, tmp_path: Path
) -> None:
    place = save_masked(tmp_path / "student", wordpiece(), seed=1, num_hidden_layers=1)
    loader = masked_cache.loader(batch_size=8, shuffle=False)
    batch = loader.at(0, 1)
    weights_N = torch.full((len(batch.rows),), 1 / len(batch.rows))
    names = [name for name, each in METHODS.items() if each.form == "rows" and each.state is None]
    assert len(names) > 12
    for name in names:
        student = AutoModelForMaskedLM.from_pretrained(place).eval()
        learner = Learner(student=student, criterion=Criterion.mixed(name))
        optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            loss, _ = learner.loss(student, batch, loader, weights_N, 0.0)
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[-1] < losses[0], (name, losses)
