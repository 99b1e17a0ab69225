"""Trackers get the figures under stable names: those that docs/training.md states."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import logitstore
from logitstore.dump.dump import dump
from logitstore.errors import BadInput
from logitstore.train.train import train
from tests.parts.commands import Command
from tests.parts.images import digits, images_plan
from tests.parts.places import ROOT
from tests.parts.training import plan_of

NAMES = {
    "train/loss": "loss",
    "train/kl": "kl",
    "train/cross_entropy": "cross_entropy",
    "train/learning_rate": "learning_rate",
    "eval/kl": "eval_kl",
    "eval/kl_lower_bound": "eval_kl_lower_bound",
    "eval/cross_entropy": "eval_cross_entropy",
    "eval/agreement": "eval_agreement",
    "eval/acceptance": "eval_acceptance",
}
"""Names in TensorBoard and Weights & Biases, each with that in the log and in MLflow."""


def scalars(out: Path) -> dict[str, dict[int, float]]:
    """What the event files of a run hold, by name and step."""
    (folder,) = (out / "runs").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_the_event_files_of_tensorboard_hold_the_log(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path, command: Command
) -> None:
    options = ["--report-to", "tensorboard", "--set", "logging_steps=1", "--max-steps", 4, "--evaluate-every", 2]
    options += ["--student", small_student, "--out", tmp_path, "--alpha", 0.5, "--holdout", 0.2, "--batch-size", 8]
    options += ["--objective", "forward_kl", "--device", "cpu"]
    assert command("train", cache.path, *options) == 0
    found = scalars(tmp_path)
    log = json.loads((tmp_path / "logitstore.json").read_text())["log"]
    for name, in_log in NAMES.items():
        expected = {entry["step"]: entry[in_log] for entry in log if in_log in entry}
        assert found[name] == pytest.approx(expected, rel=1e-6), name
    assert sorted(found["eval/kl"]) == [2, 4]
    assert sorted(found["train/kl"]) == [1, 2, 3, 4]


def test_figures_that_are_not_known_are_in_no_tracker_and_no_log(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: Command
) -> None:
    """Images without labels have no cross-entropy and no accuracy."""
    data = digits(tmp_path / "flat", range(20), labelled=False)
    cache = dump(images_plan(classifier, data, tmp_path / "cache"))
    options = ["--report-to", "tensorboard", "--set", "logging_steps=1", "--max-steps", 2, "--holdout", 0.3]
    out = tmp_path / "out"
    assert command("train", cache.path, "--out", out, "--student", classifier, *options, "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert "eval_kl" in shown
    assert "nan" not in shown
    log = json.loads((out / "logitstore.json").read_text())["log"]
    told = {name for entry in log for name in entry if name.startswith("eval_")}
    assert {"eval_kl", "eval_agreement", "eval_acceptance"} <= told
    assert not told & {"eval_cross_entropy", "eval_teacher_cross_entropy", "eval_accuracy", "eval_calibration_error"}
    assert all(value is not None for entry in log for value in entry.values())
    assert {name for name in scalars(out) if name.startswith("eval/")} == {f"eval/{name[5:]}" for name in told}
    with pytest.raises(BadInput, match="'cross_entropy' is not known of the held-out samples"):
        train(plan_of(cache, tmp_path / "best", max_steps=2, trainer={"metric_for_best_model": "cross_entropy"}))


def test_of_several_students_each_has_its_own_names(
    cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    both = [str(small_student), str(teacher)]
    options: dict[str, Any] = {"max_steps": 1, "report_to": ["tensorboard"], "objective": "forward_kl"}
    train(plan_of(cache, tmp_path, student=both, **options))
    found = scalars(tmp_path)
    for student in (small_student, teacher):
        assert {f"train/{student.name}/{name}" for name in ("loss", "kl", "eval_kl", "eval_acceptance")} <= set(found)


def test_the_page_states_these_names() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    assert [name for pair in NAMES.items() for name in pair if f"`{name}`" not in page] == []


def test_a_tracker_is_named_in_one_place(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    plan = plan_of(cache, tmp_path, student=str(small_student), report_to=["none"], trainer={"report_to": "none"})
    with pytest.raises(BadInput, match="--report-to with report_to in the section trainer"):
        train(plan)
