"""Students that are compared before they are trained: scores, short trainings, tables and refusals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import logitstore
from logitstore.core.order import held_out
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.models.rank import RankSettings
from logitstore.targets.dense import dense
from logitstore.train.candidates.likeness import class_gradient, classes_apart, rows_apart
from logitstore.train.candidates.rank import TRAINED, rank
from logitstore.train.candidates.scores import MOST_ROWS
from logitstore.train.evaluate import evaluate
from logitstore.train.loader.loader import Loader
from logitstore.train.loader.subset import SampleSet
from logitstore.train.train import train
from tests.parts.commands import Command, Refused
from tests.parts.texts import VOCABULARY, plan_for, save_model
from tests.parts.training import plan_of


@pytest.fixture(scope="module")
def tapped(tmp_path_factory: pytest.TempPathFactory, teacher: Path, texts: Path) -> logitstore.Cache:
    """A cache with the features that all scores read."""
    out = tmp_path_factory.mktemp("tapped") / "cache"
    return dump(plan_for(teacher, texts, out, limit=12, hidden="final", qkv="2", tap_codec="float32"))


@pytest.fixture(scope="module")
def wide_student(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    return save_model(tmp_path_factory.mktemp("wide"), tokenizer, VOCABULARY, seed=2, hidden_size=64)


def asked(cache: logitstore.Cache, **changes: Any) -> RankSettings:
    usual: dict[str, Any] = {"cache": cache.path, "steps": 0, "holdout": 0.2, "samples": 16, "device": "cpu"}
    return RankSettings(**usual | changes)


def test_scores_are_those_of_the_student_as_it_is(
    tapped: logitstore.Cache, small_student: Path, wide_student: Path
) -> None:
    said: list[str] = []
    students = [str(small_student), str(wide_student)]
    found = rank(asked(tapped, student=students, samples=8, batch_size=8), notice=said.append)
    assert said == []
    assert found.agreement == {}
    figures = {each.student: each.figures for each in found.candidates}
    for student in students:
        model = AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32).eval()
        loader = Loader(
            tapped, samples=SampleSet(~held_out(tapped.column("documents"), 0.2)), taps=["final"], batch_size=8, seed=0
        )
        batch = loader.at(0, 0)
        assert len(batch.rows) > MOST_ROWS
        with torch.no_grad():
            states = model.model(**batch.model_inputs()).last_hidden_state.flatten(0, 1)[batch.rows]
            logits = model.lm_head(states)
        teacher = dense(loader.targets(batch)).double()
        kl = (teacher * (teacher.log() - logits.double().log_softmax(-1)[:, : teacher.shape[1]])).nansum(-1).mean()
        assert figures[student]["kl"] == pytest.approx(float(kl), rel=1e-5)
        some = slice(None, None, -(-len(batch.rows) // MOST_ROWS))
        features = loader.features(batch)["final"][some]
        assert figures[student]["diswot_rows"] == pytest.approx(float(rows_apart(features, states[some])), rel=1e-5)
        gold = batch.gold[some]
        classes = torch.unique(gold)
        gradients = [
            class_gradient(probs[some][:, classes], gold[:, None] == classes, own)
            for probs, own in ((teacher, features), (logits.softmax(-1), states[some]))
        ]
        assert figures[student]["diswot_classes"] == pytest.approx(float(classes_apart(*gradients)), rel=1e-4)
        assert 0 < figures[student]["relations"] < 50
    assert [each.student for each in found.candidates] == sorted(students, key=lambda each: figures[each]["kl"])


def test_the_teacher_itself_is_no_distance_away(tapped: logitstore.Cache, teacher: Path, small_student: Path) -> None:
    found = rank(asked(tapped, student=[str(small_student), str(teacher)]))
    best = found.candidates[0]
    assert best.student == str(teacher)
    for name, value in best.figures.items():
        assert value < found.candidates[1].figures[name] / 2, name
        if name in ("relations", "diswot_rows"):  # the others are of eight listed tokens and a tail
            assert value == pytest.approx(0, abs=1e-6), name


def test_a_short_training_is_that_of_train(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    fresh = ["layers=1,hidden_size=16,heads=2,kv_heads=2", "layers=1"]
    said: list[str] = []
    settings = asked(cache, student=[str(small_student)], fresh=fresh, steps=12, learning_rate=3e-3)
    steps: list[Any] = []
    found = rank(settings, progress=steps.append, notice=said.append)
    assert {each.partition(":")[0] for each in said} == {"note"}
    assert any("without relations" in each and "logitstore add --qkv 2" in each for each in said)
    assert any("without diswot_classes" in each for each in said)
    assert {each.student for each in found.candidates} == {str(small_student), *fresh}
    trained = [each.figures[TRAINED] for each in found.candidates]
    assert trained == sorted(trained)
    assert set(found.agreement) == {"kl", "diswot_rows"}
    assert all(-1 <= value <= 1 or math.isnan(value) for value in found.agreement.values())
    assert all(each.figures["kl"] > each.figures[TRAINED] for each in found.candidates)
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done == steps[-1].total == 3 * (2 + 12)
    out = tmp_path / "out"
    figures = train(plan_of(cache, out, student=str(small_student), max_steps=12, trainer={}))
    own = next(each for each in found.candidates if each.student == str(small_student))
    assert own.figures[TRAINED] == pytest.approx(figures["eval_kl"], rel=1e-6)
    judged = evaluate(EvaluateSettings(cache=cache.path, student=str(out), holdout=0.2, dtype="float32", device="cpu"))
    assert own.figures[TRAINED] == pytest.approx(judged.kl, rel=2e-2)


def test_images_are_compared_by_their_answers(image_cache: logitstore.Cache, classifier: Path) -> None:
    found = rank(asked(image_cache, student=[str(classifier)], fresh=["layers=1"]))
    own, other = found.candidates
    assert own.student == str(classifier)
    assert own.figures["kl"] < 1e-2 < other.figures["kl"]
    assert own.figures["diswot_rows"] < other.figures["diswot_rows"] / 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no student is given. Name each with --student"),
        ({"fresh": ["layers=1", "layers=1"]}, "layers=1 is given twice"),
        ({"fresh": ["layers"]}, "--fresh layers: write layers, hidden_size"),
        ({"fresh": ["layers=0"]}, "--fresh layers=0: write layers"),
        ({"fresh": ["depth=2"]}, "--fresh depth=2: write layers"),
        ({"fresh": ["layers=1"], "score": ["relations"]}, "--score relations: .* has no tap query-2. Add it with"),
        ({"fresh": ["layers=1"], "steps": 1, "holdout": 0}, "--holdout 0: the short trainings are judged"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str, cache: logitstore.Cache) -> None:
    with pytest.raises(BadInput, match=message):
        rank(asked(cache, **changes))


def test_the_command_prints_a_table_or_json(
    command: Command, refused: Refused, cache: logitstore.Cache, small_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--student", small_student, "--fresh", "layers=1", "--fresh", "layers=2", "--holdout", "0.2"]
    assert command("rank", cache.path, *options, "--device", "cpu", "--samples", 8, "--steps", 1) == 0
    said = capsys.readouterr()
    assert "kl_trained" in said.out
    assert "agreement with the KL after 1 step: kl" in said.out
    assert "without relations" in said.err
    assert command("rank", cache.path, *options, "--device", "cpu", "--score", "kl", "--json", "--steps", 0) == 0
    found = json.loads(capsys.readouterr().out)
    assert [set(each) for each in found["students"]] == [{"student", "weights", "seconds", "kl"}] * 3
    assert found["agreement"] == {}
    line = refused("rank", cache.path)
    assert "no student is given" in line
