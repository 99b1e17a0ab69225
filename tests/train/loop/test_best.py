"""The best student of a run: when the run stops for it, what follows it, and where it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, TrainerControl, TrainerState, TrainingArguments

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loop.best import EarlyStopping, check_known
from logitstore.train.loop.checkpoints import checkpoints
from logitstore.train.train import train
from tests.parts.training import plan_of

WORSE: dict[str, Any] = {
    "evaluate_every": 1,
    "learning_rate": 0.3,
    "scheduler": "constant",
    "warmup": 0.0,
    "keep_checkpoints": 99,
    "precision": "float32",
}
"""A rate that soon makes the student worse."""


def test_a_run_stops_when_no_better_student_comes_and_saves_the_best(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = WORSE | {"student": str(small_student), "max_steps": 30}
    said: list[str] = []
    figures = train(plan_of(cache, tmp_path, early_stopping=3, **options), notice=said.append)
    log = json.loads((tmp_path / "logitstore.json").read_text())["log"]
    judged = {entry["step"]: entry["eval_kl"] for entry in log if "eval_kl" in entry}
    best = min(judged, key=judged.__getitem__)
    assert max(judged) == best + 3 == figures["steps"] < 30
    assert figures["eval_kl"] == judged[best]
    saved, kept = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (tmp_path, tmp_path / f"checkpoint-{best}")
    )
    assert all((saved[name] == kept[name]).all() for name in kept)
    (told,) = [text for text in said if "stopped at step" in text]
    assert f"stopped at step {best + 3} of 30: eval_kl was {judged[best]:.4f} at step {best}" in told
    assert f"note: the student that is saved is the best one, that of step {best}." in said
    with pytest.raises(BadInput, match=r"is finished\. Give a higher --max-steps or --epochs or --early-stopping"):
        train(plan_of(cache, tmp_path, early_stopping=3, resume=True, **options))
    more = train(plan_of(cache, tmp_path, early_stopping=5, resume=True, **options))
    assert more["steps"] == best + 5


def test_a_run_that_is_resumed_stops_where_it_would_have(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = WORSE | {"student": str(small_student), "max_steps": 30, "early_stopping": 3}
    whole = train(plan_of(cache, tmp_path / "whole", **options))
    last = int(whole["steps"])
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{last - 1}", tmp_path / "moved" / f"checkpoint-{last - 1}")
    best = last - 3
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{best}", tmp_path / "moved" / f"checkpoint-{best}")
    shutil.rmtree(tmp_path / "whole")
    assert train(plan_of(cache, tmp_path / "moved", resume=True, **options)) == whole


@pytest.mark.parametrize(
    ("values", "greater", "patience", "stops"),
    [
        ([3.0, 2.0, 2.1, 2.2], False, 2, True),
        ([3.0, 2.0, 2.1, 1.9], False, 2, False),
        ([3.0, 2.0, 2.0, 2.0], False, 2, True),
        ([0.1, 0.3, 0.2], True, 1, True),
        ([0.1, 0.2, 0.3], True, 1, False),
        ([1.0], False, 1, False),
    ],
)
def test_as_many_evaluations_must_be_no_better(
    values: list[float], greater: bool, patience: int, stops: bool, tmp_path: Path
) -> None:
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, metric_for_best_model="eval_x", greater_is_better=greater
    )
    history: list[Any] = [{"step": step, "eval_x": value} for step, value in enumerate(values, 1)]
    state, control = TrainerState(log_history=history, max_steps=99, global_step=len(values)), TrainerControl()
    EarlyStopping(patience, lambda _: None).on_evaluate(arguments, state, control)
    assert control.should_training_stop is stops


@pytest.mark.parametrize("scheduler", ["reduce_lr_on_plateau", "greedy"])
def test_schedules_that_follow_a_figure_follow_the_kl(
    scheduler: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = WORSE | {"student": str(small_student), "max_steps": 8, "scheduler": scheduler}
    section = {"logging_steps": 1, "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}
    train(plan_of(cache, tmp_path, trainer=section, **options))
    log = json.loads((tmp_path / "logitstore.json").read_text())["log"]
    rates = {entry["step"]: entry["learning_rate"] for entry in log if "learning_rate" in entry}
    judged = {entry["step"]: entry["eval_kl"] for entry in log if "eval_kl" in entry}
    if scheduler == "greedy":
        assert len(set(rates.values())) > 1
        return
    expected, best, rate = {1: 0.3}, float("inf"), 0.3
    for step in range(1, 8):
        if judged[step] < best * (1 - 1e-4):
            best = judged[step]
        else:
            rate /= 2
        expected[step + 1] = rate
    assert len(set(expected.values())) > 1
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"early_stopping": 2, "holdout": 0}, "--early-stopping 2 needs held-out samples"),
        (
            {"scheduler": "reduce_lr_on_plateau", "warmup": 0.0, "holdout": 0},
            "--scheduler reduce_lr_on_plateau needs held-",
        ),
        ({"early_stopping": 2, "student": ["s", "t"]}, "--early-stopping 2 with several --student"),
        (
            {"early_stopping": 2, "trainer": {"load_best_model_at_end": False}},
            "--early-stopping 2 with load_best_model_at_end",
        ),
        (
            {"early_stopping": 2, "save_every": 3},
            "--save-every 3 and the evaluations four times in a run do not go together",
        ),
        (
            {"early_stopping": 2, "trainer": {"save_strategy": "epoch"}},
            "save_strategy 'epoch' with load_best_model_at_end",
        ),
        ({"scheduler": "greedy", "warmup": 0.1}, "--warmup 0.1: it changes nothing|the schedule greedy has none"),
    ],
)
def test_what_the_best_student_needs_is_refused_by_name(
    changes: dict[str, Any], text: str, cache: logitstore.Cache, teacher: Path, small_student: Path, tmp_path: Path
) -> None:
    if "student" in changes:
        changes = changes | {"student": [str(small_student), str(teacher)]}
    with pytest.raises(BadInput, match=text):
        train(plan_of(cache, tmp_path / "out", **{"student": str(small_student)} | changes))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "every"),
    [
        ({"early_stopping": 1, "evaluate_every": 9}, "one every 9 steps"),
        ({"scheduler": "reduce_lr_on_plateau", "warmup": 0.0, "evaluate_every": 9}, "one every 9 steps"),
        ({"trainer": {"load_best_model_at_end": True}, "evaluate_every": 9}, "one every 9 steps"),
        ({"trainer": {"save_strategy": "best", "eval_delay": 5}, "evaluate_every": 2}, "steps and eval_delay 5"),
    ],
)
def test_a_run_without_an_evaluation_judges_nothing(
    changes: dict[str, Any], every: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"no evaluation comes within the 4 steps of this run .*{every}"):
        train(plan_of(cache, tmp_path, student=str(small_student), max_steps=4, **changes))


def test_patience_that_outlasts_the_run_is_told(cache: logitstore.Cache, small_student: Path, tmp_path: Path) -> None:
    options = WORSE | {"student": str(small_student), "evaluate_every": 2, "max_steps": 4}
    said: list[str] = []
    train(plan_of(cache, tmp_path / "two", early_stopping=2, **options), notice=said.append)
    assert [text for text in said if "--early-stopping 2 cannot stop this run, which has 2 evaluations" in text]
    said.clear()
    train(plan_of(cache, tmp_path / "one", early_stopping=1, **options), notice=said.append)
    assert not [text for text in said if "cannot stop" in text]


def test_a_figure_that_is_not_known_cannot_be_judged_by() -> None:
    check_known(None, {})
    check_known("eval_kl", {"eval_kl": 1.0})
    with pytest.raises(BadInput, match=r"'cross_entropy' is not known .* Give one of these: kl, agreement"):
        check_known("eval_cross_entropy", {"eval_kl": 1.0, "eval_agreement": 0.5})


def test_a_best_checkpoint_that_is_gone_lets_another_become_the_best(
    cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    options = WORSE | {"student": str(small_student), "trainer": {"load_best_model_at_end": True}}
    first = train(plan_of(cache, tmp_path, max_steps=6, **options))
    last = checkpoints(tmp_path)[-1]
    for folder in checkpoints(tmp_path)[:-1]:
        shutil.rmtree(folder)
    more = train(plan_of(cache, tmp_path, max_steps=8, resume=True, **options))
    log = json.loads((tmp_path / "logitstore.json").read_text())["log"]
    judged = {entry["step"]: entry["eval_kl"] for entry in log if "eval_kl" in entry}
    assert last.name == "checkpoint-6"
    assert more["eval_kl"] == min(judged[step] for step in (7, 8)) > first["eval_kl"]
