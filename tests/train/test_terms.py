"""The terms of a loss: every objective trains, is logged and kept by checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from transformers import (
    PreTrainedTokenizerFast,
)

import logitstore
from logitstore.core.methods import METHODS
from logitstore.core.schedule import Schedule
from logitstore.errors import BadInput
from logitstore.format.presets import row_of
from logitstore.settings.models.evaluate import EvaluateSettings
from logitstore.settings.train import TrainSettings
from logitstore.train.evaluate import evaluate
from logitstore.train.objectives.criterion import Criterion, RowTerm
from logitstore.train.objectives.exactness import check_method
from logitstore.train.terms import criterion_of
from logitstore.train.train import train
from tests.parts.marks import often
from tests.parts.texts import PADDED_VOCABULARY, VOCABULARY, save_model
from tests.parts.training import curve, plan_of

ROW_METHODS = [name for name, method in METHODS.items() if method.form == "rows"]
OTHERWISE_UNTRIED = {"symmetric_kl", "skew_forward_kl", "reverse_kl"}
"""Those that no recipe trains with (see test_recipes.py), and one more."""
PADDED_OFTEN = {"forward_kl", "dist", "sinkhorn", "taid", "one_for_all"}


def test_the_log_tells_what_the_loss_is_made_of(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train(plan_of(cache, out, student=str(small_student), max_steps=3, alpha=0.25, temperature=2.0))
    logged = [entry for entry in json.loads((out / "logitstore.json").read_text())["log"] if "loss" in entry]
    assert len(logged) == 3
    for entry in logged:
        assert entry["loss"] == pytest.approx(0.25 * entry["kl"] + 0.75 * entry["cross_entropy"], rel=1e-4)


@pytest.mark.parametrize(
    "objective", often([name for name in ROW_METHODS if name != "forward_kl"], OTHERWISE_UNTRIED.__contains__)
)
def test_every_objective_trains_and_falls(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, objective: str
) -> None:
    """From the head's own loss, mixed with cross-entropy; the log names it."""
    options = {
        "student": str(small_student),
        "objective": objective,
        "alpha": 0.9,
        "max_steps": 12,
        "precision": "bfloat16" if objective == "reverse_kl" else "float32",
        "options": {"start": 1.0} if objective == "taid" else {},  # else its target runs away from the student
    }
    train(plan_of(cache, tmp_path / "out", **options))
    logged = [
        entry for entry in json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"] if "loss" in entry
    ]
    first, last = (np.mean([entry[objective] for entry in some]) for some in (logged[:4], logged[-4:]))
    assert last < first
    assert all("cross_entropy" in entry for entry in logged)


@pytest.mark.parametrize("objective", often(ROW_METHODS, PADDED_OFTEN.__contains__))
def test_every_objective_trains_a_student_whose_head_is_padded(
    cache: logitstore.Cache, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, objective: str
) -> None:
    """With as many rows as the teacher's head, of which the cache knows those of the tokenizer."""
    student = save_model(tmp_path / "student", tokenizer, PADDED_VOCABULARY, seed=1, num_hidden_layers=1)
    options = {"objective": objective, "max_steps": 3, "holdout": 0.0}
    train(plan_of(cache, tmp_path / "out", student=str(student), **options))
    logged = json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]
    assert all(np.isfinite(entry["loss"]) for entry in logged if "loss" in entry)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert weights["lm_head.weight"].shape[0] == PADDED_VOCABULARY
    assert all(value.isfinite().all() for value in weights.values())


def test_taid_goes_on_in_time_and_a_checkpoint_keeps_it(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {
        "student": str(small_student),
        "objective": "taid",
        "options": {"step": 0.05},
        "epochs": 2.0,
        "save_every": 10,
    }
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    figures = train(plan_of(cache, whole, **options, keep_checkpoints=99))
    times = [
        load_file(folder / "criterion.safetensors")["student.states.taid.t"].item()
        for folder in sorted(whole.glob("checkpoint-*"), key=lambda each: int(each.name.rpartition("-")[2]))
    ]
    assert times == sorted(times)
    assert times[0] > 0.4
    assert times[-1] == pytest.approx(1.0)
    before = evaluate(EvaluateSettings(cache=cache.path, student=str(small_student), holdout=0.2, device="cpu"))
    assert figures["eval_kl"] < before.kl
    shutil.copytree(whole / "checkpoint-20", stopped / "checkpoint-20")
    train(plan_of(cache, stopped, **options, resume=True))
    assert curve(stopped) == curve(whole)


def test_pulls_of_the_same_name_are_told_apart_and_keep_their_own(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    terms = [{"name": "taid", "options": {"start": 0.7}}, {"name": "forward_kl"}, {"name": "taid", "weight": 2.0}]
    plan = plan_of(
        cache, tmp_path / "out", student=str(small_student), objective="taid", alpha=0.5, terms=terms, max_steps=2
    )
    criterion = criterion_of(plan, cache, {"num_hidden_layers": 1}, {})
    assert [term.label for term in criterion.rows] == ["taid", "cross_entropy", "taid_2", "forward_kl", "taid_3"]
    assert [float(state.t) for state in criterion.states.values()] == pytest.approx([0.4, 0.7, 0.4])
    train(plan)
    for entry in json.loads((tmp_path / "out" / "logitstore.json").read_text())["log"]:
        if "loss" in entry:
            parts = (0.5, "taid"), (0.5, "cross_entropy"), (1, "taid_2"), (1, "forward_kl"), (2, "taid_3")
            assert entry["loss"] == pytest.approx(sum(weight * entry[name] for weight, name in parts), rel=1e-4)


def test_a_criterion_whose_labels_do_not_differ_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="labels must differ"):
        Criterion.mixed("taid", rows=[RowTerm(name="taid", label="taid", weight=Schedule.of(1.0))])


def test_objectives_that_a_cache_does_not_serve_are_refused(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    plan = plan_of(cache, tmp_path / "out", student=str(small_student))
    with pytest.raises(BadInput, match="Did you mean 'reverse_kl'"):
        train(plan.model_copy(update={"objective": "revers_kl"}))
    with pytest.raises(BadInput, match="exists at temperature 1 only"):
        train(plan.model_copy(update={"objective": "lumped_kl", "temperature": 2.0}))
    samples = row_of("sampled", {}, VOCABULARY, 32)
    with pytest.raises(BadInput, match="holds random samples"):
        check_method("total_variation", samples, 1.0)
    bare = row_of("topk", {"tail": "none"}, VOCABULARY, 32)
    with pytest.raises(BadInput, match="has no tail"):
        check_method("reverse_kl", bare, 1.0)
    check_method("skew_reverse_kl", bare, 1.0)
    assert not (tmp_path / "out").exists()


def test_a_student_that_learns_faults_is_announced(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """The teacher of these tests knows no language: for who learned some text, every step towards it is one away."""
    train(plan_of(cache, tmp_path / "text", student=str(small_student), epochs=8.0, alpha=0.0))
    said: list[str] = []
    plan = plan_of(cache, tmp_path / "out", student=str(tmp_path / "text"), epochs=1.0, evaluate_every=3)
    train(plan, notice=said.append)
    assert sum("cross-entropy on held-out gold tokens rises" in text for text in said) == 1


def test_the_help_names_every_objective() -> None:
    described = TrainSettings.model_fields["objective"].description or ""
    assert all(name in described for name in METHODS)
