"""What a `trainer:` section may say, and what comes of it."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, TrainingArguments

import logitstore
from logitstore.errors import BadInput
from logitstore.train.loop.arguments import HAVE_OPTIONS, NO_EFFECT, check_trainer_section
from logitstore.train.train import train
from tests.parts.training import plan_of

KNOWN = [each.name for each in fields(TrainingArguments)]


def test_the_tables_name_arguments_of_transformers_and_none_twice() -> None:
    assert set(HAVE_OPTIONS) | set(NO_EFFECT) <= set(KNOWN)
    assert not set(HAVE_OPTIONS) & set(NO_EFFECT)


@pytest.mark.parametrize("name", [*HAVE_OPTIONS, *NO_EFFECT])
def test_what_has_no_effect_is_refused_by_name(name: str) -> None:
    with pytest.raises(BadInput, match=rf"trainer: '{name}' (is set by -|has no effect here: )"):
        check_trainer_section({name: 1})


@pytest.mark.parametrize(
    ("wrong", "near"), [("max_grad_nrom", "max_grad_norm"), ("optm", "optim"), ("report_two", "report_to")]
)
def test_an_unknown_name_is_refused_with_the_nearest(
    wrong: str, near: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"no training argument '{wrong}'. Did you mean '{near}'?"):
        train(plan_of(cache, tmp_path / "out", trainer={wrong: 1}))


@pytest.mark.parametrize(
    ("section", "package"),
    [
        ({"report_to": "wandb"}, "wandb"),
        ({"report_to": ["mlflow"]}, "mlflow"),
        ({"optim": "adamw_bnb_8bit"}, "bitsandbytes"),
        ({"use_liger_kernel": True}, "liger"),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, "[Dd]eepspeed|DeepSpeed"),
    ],
)
def test_a_missing_package_is_named_in_one_line(
    section: dict[str, Any], package: str, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=f"trainer: .*({package})") as refused:
        train(plan_of(cache, tmp_path / "out", student=str(small_student), max_steps=2, trainer=section))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("metric", [None, "eval_kl", "kl", "agreement"])
def test_the_best_student_is_saved_with_its_own_figures(
    metric: str | None, cache: logitstore.Cache, small_student: Path, tmp_path: Path
) -> None:
    """A rate that is too large at the end: the best of the steps is another than the last."""
    section = {"load_best_model_at_end": True, "logging_steps": 1}
    out = tmp_path / "out"
    options = {
        "max_steps": 8,
        "evaluate_every": 2,
        "keep_checkpoints": 99,
        "learning_rate": 0.05,
        "scheduler": "constant",
    }
    train(
        plan_of(
            cache,
            out,
            student=str(small_student),
            trainer=section | ({} if metric is None else {"metric_for_best_model": metric}),
            **options,
        )
    )
    summary = json.loads((out / "logitstore.json").read_text())
    name = f"eval_{(metric or 'kl').removeprefix('eval_')}"
    judged = {entry["step"]: entry for entry in summary["log"] if name in entry}
    assert sorted(judged) == [2, 4, 6, 8]
    pick = max if name == "eval_agreement" else min
    best = pick(judged, key=lambda step: judged[step][name])
    assert summary["figures"][name] == judged[best][name]
    assert summary["figures"]["eval_cross_entropy"] == judged[best]["eval_cross_entropy"]
    saved = AutoModelForCausalLM.from_pretrained(out).state_dict()
    kept = AutoModelForCausalLM.from_pretrained(out / f"checkpoint-{best}").state_dict()
    assert all((saved[weight] == kept[weight]).all() for weight in kept)


@pytest.mark.parametrize(
    ("section", "changes", "text"),
    [
        ({"load_best_model_at_end": True}, {"holdout": 0}, "needs held-out samples"),
        ({"metric_for_best_model": "eval_kll"}, {}, "no such figure. Did you mean 'kl'"),
        ({"greater_is_better": True}, {}, "has no effect without load_best_model_at_end"),
        ({"load_best_model_at_end": True}, {"save_every": 3, "evaluate_every": 2}, "do not go together"),
    ],
)
def test_a_best_student_that_cannot_be_known_is_refused(
    section: dict[str, Any], changes: dict[str, Any], text: str, cache: logitstore.Cache, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=text):
        train(plan_of(cache, tmp_path / "out", trainer=section, **changes))
